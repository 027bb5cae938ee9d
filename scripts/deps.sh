#!/usr/bin/env bash
# Installs the Debian packages that a part of the work needs, only those that
# are missing: deps.sh run|test|bench. Elsewhere than on Debian it says which
# commands to get and fails when one is missing.
set -euo pipefail

# Each word is package=command; a package without a command of its own names
# itself twice and is looked for by dpkg only.
run='python3=python3 python3-pil=python3-pil iproute2=ip ca-certificates=ca-certificates'
test="$run gcc=gcc libc6-dev=libc6-dev mmdebstrap=mmdebstrap busybox-static=busybox
 crun=crun runc=runc nftables=nft iptables=iptables docker-registry=docker-registry
 qemu-system-x86=qemu-system-x86_64 zstd=zstd xz-utils=xz gzip=gzip tar=tar nodejs=node npm=/usr/bin/npm
 tmux=tmux e2fsprogs=mke2fs attr=setfattr procps=ps git=git"
# docker.io and podman are compared with only where somebody has installed them:
# either brings services that a bench must not put on a machine unasked.
# Of redis-tools one program is the server, without the service of redis-server.
bench="$test redis-tools=redis-check-rdb postgresql-15=postgresql-15"

case ${1-} in
run) wanted=$run ;;
test) wanted=$test ;;
bench) wanted=$bench ;;
*)
	echo "usage: deps.sh run|test|bench" >&2
	exit 2
	;;
esac

PATH=$PATH:/usr/sbin:/sbin
lock=${TMPDIR:-/tmp}/mayfly-apt.lock

has_apt() { command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; }

installed() {
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# missing prints the packages (or, without dpkg, the commands) that are not here.
# A command that came another way than by its package is as good.
missing() {
	local pair package name
	for pair in $wanted; do
		package=${pair%%=*} name=${pair##*=}
		if [ "$name" != "$package" ] || ! has_apt; then
			command -v "$name" >/dev/null && continue
		fi
		if has_apt; then
			installed "$package" || echo "$package"
		elif [ "$name" != "$package" ] || [ "${name#*-}" = "$name" ]; then
			echo "$name"
		fi
	done
}

# apt_get waits for another apt instead of failing: DPkg::Lock::Timeout covers
# dpkg's lock, the loop covers that of the package lists.
apt_get() {
	local try
	for try in 1 2 3 4 5 6; do
		DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
			-o Acquire::Retries=3 "$@" </dev/null >"$log" 2>&1 && return
		grep -q 'Could not get lock' "$log" || break
		sleep $((try * 5))
	done
	cat "$log" >&2
	return 1
}

need=$(missing | xargs)
[ -n "$need" ] || exit 0

if ! has_apt; then
	echo "missing commands: $need" >&2
	echo "This machine is not a Debian: install them with its package manager, then try again." >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "missing packages: $need" >&2
	echo "As root: apt-get install --no-install-recommends $need" >&2
	exit 1
fi

exec 9>"$lock"
flock 9
need=$(missing | xargs) # another may have installed them while we waited
[ -n "$need" ] || exit 0

log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "installing: $need"
# Package lists are fetched only when the present ones do not suffice.
# shellcheck disable=SC2086 # words are meant
if ! apt_get install --no-install-recommends $need 2>/dev/null; then
	apt_get update
	apt_get install --no-install-recommends $need
fi

# Debian starts these at once, on ports that others may want; the tests and the
# bench start their own.
for service in docker-registry=docker-registry postgresql-15=postgresql; do
	case " $need " in
	*" ${service%%=*} "*)
		if [ -d /run/systemd/system ]; then
			systemctl disable --now "${service#*=}" >/dev/null 2>&1 || true
		fi
		;;
	esac
done
