#!/usr/bin/env bash
# The demonstration: run.sh up installs what is missing, builds, starts a node,
# deploys examples/thumbnail, calls it with a photograph and says what each
# phase took. It stays until Ctrl-C; with DETACH=1 it leaves the node running.
# run.sh down ends the node and every container of it.
#
# MAYFLY_DATA, MAYFLY_HTTP and MAYFLY_HOST move its data directory, its web
# address and its API socket, so that it can live beside another node.
set -euo pipefail
cd "$(dirname "$0")/.."

DATA=${MAYFLY_DATA:-$PWD/.build/run}
HTTP=${MAYFLY_HTTP:-127.0.0.1:8080}
API=${MAYFLY_HOST:-unix:///run/mayfly/mayfly.sock}
PHOTO=${PHOTO:-examples/thumbnail/photo.jpg}
OUT=${OUT:-.build/thumbnail.jpg}
LOG=$PWD/.build/run.log
PIDFILE=$PWD/.build/run.pid
export MAYFLY_HOST=$API PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin

die() {
	echo "$*" >&2
	exit 1
}

# node_pid prints the process id of our node while it runs. A number alone
# could by now be another program's, so the program is looked at as well.
node_pid() {
	local pid
	pid=$(cat "$PIDFILE" 2>/dev/null) || return 1
	[ "$(readlink "/proc/$pid/exe" 2>/dev/null | sed 's/ (deleted)$//')" = "$PWD/bin/mayfly" ] && echo "$pid"
}

down() {
	local pid
	if ! pid=$(node_pid); then
		rm -f "$PIDFILE"
		echo "no node of this checkout is running"
		return
	fi
	bin/mayfly down || kill "$pid"
	tail -f --pid="$pid" /dev/null # returns when the node has ended
	rm -f "$PIDFILE"
	echo "stopped"
}

micros() { echo "${EPOCHREALTIME/[.,]/}"; }

# phase runs a command and notes how long it took.
report=
phase() {
	local name=$1 from took
	shift
	from=$(micros)
	"$@" || die "$name failed; the node's log is $LOG"
	took=$(($(micros) - from))
	report+=$(printf '%-32s %9d.%01d ms' "$name" $((took / 1000)) $((took % 1000 / 100)))$'\n'
}

start() {
	mkdir -p "$DATA"
	setsid bin/mayfly up --data "$DATA" --http "$HTTP" --api "$API" >"$LOG" 2>&1 </dev/null &
	echo $! >"$PIDFILE"
	local tries
	for tries in $(seq 300); do
		bin/mayfly ps >/dev/null 2>&1 && return
		kill -0 "$(cat "$PIDFILE")" 2>/dev/null || break
		sleep 0.1
	done
	echo "the node does not answer after $tries tries:" >&2
	tail -n 20 "$LOG" >&2
	return 1
}

call() { bin/mayfly call thumbnail -d "@$PHOTO" >"$OUT"; }

up() {
	[ "$(id -u)" = 0 ] || die "make run makes containers, which needs root: sudo make run"
	command -v go >/dev/null || die "Go is not installed: see https://go.dev/doc/install, or apt-get install -t bookworm-backports golang-go"
	if node_pid >/dev/null; then die "a node of this checkout is running already: make stop"; fi
	mkdir -p .build

	phase 'install what is missing' scripts/deps.sh run
	phase 'build' "${MAKE:-make}" --no-print-directory build
	phase 'start a node' start
	trap 'exit 130' INT TERM
	trap 'down' EXIT
	phase 'deploy examples/thumbnail' bin/mayfly deploy -f examples/thumbnail/mayfly.yaml
	phase 'first call' call
	phase 'second call' call
	[ -s "$OUT" ] || die "the thumbnail is empty; the node's log is $LOG"

	printf '\n%s\n' "$report"
	echo "photograph  $PHOTO ($(stat -c %s "$PHOTO") bytes)"
	echo "thumbnail   $OUT ($(stat -c %s "$OUT") bytes)"
	echo "call it     curl --data-binary @$PHOTO http://$HTTP/thumbnail >thumbnail.jpg"
	echo "            MAYFLY_HOST=$API bin/mayfly call thumbnail -d @$PHOTO >thumbnail.jpg"
	echo "log         $LOG"

	if [ -n "${DETACH:-}" ]; then
		trap - EXIT
		echo "stop it     make stop"
		return
	fi
	echo "Ctrl-C stops it."
	wait "$(cat "$PIDFILE")" || true
	die "the node has ended by itself; its log is $LOG"
}

case ${1-} in
up) up ;;
down) down ;;
*)
	echo "usage: run.sh up|down" >&2
	exit 2
	;;
esac
