# What each recipe begins with. Nothing that the recipe starts can write to the tar.
set -euo pipefail
exec 3>&1 1>&2
umask 022
mkdir -p /tmp/build /tmp/home
export HOME=/tmp/home TMPDIR=/tmp
cd /tmp/build
tar -x --no-same-owner -f -
exec </dev/null
rm -rf .mayfly

need() {
	command -v "$1" >/dev/null || { echo "the stack has no $1: $2" >&2; exit 127; }
}

# finish writes what is in the folder, always in the same order.
finish() {
	tar -c --format=pax --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 \
		--pax-option=delete=atime,delete=ctime -f - . >&3
}
