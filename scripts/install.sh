#!/usr/bin/env bash
# Puts bin/mayfly, its systemd unit and the group mayfly in place. Members of
# the group may use the API socket, which is as good as being root.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local} destdir=${DESTDIR:-} unitdir=${UNITDIR:-/etc/systemd/system}

[ -x bin/mayfly ] || {
	echo "bin/mayfly is not built: make build" >&2
	exit 1
}
# A running node keeps the old file: install replaces it, it does not write into it.
install -D -m 755 bin/mayfly "$destdir$prefix/bin/mayfly"
install -d "$destdir$unitdir"
sed "s#@BINDIR@#$prefix/bin#" dist/mayfly.service >"$destdir$unitdir/mayfly.service"
chmod 644 "$destdir$unitdir/mayfly.service"
[ -z "$destdir" ] || exit 0 # a package in the making: what follows is for its own scripts

getent group mayfly >/dev/null || groupadd --system mayfly
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	echo "start it: systemctl enable --now mayfly"
else
	echo "systemd does not run here; start it: $prefix/bin/mayfly up"
fi
