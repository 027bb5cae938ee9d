#!/usr/bin/env bash
# What `make test` runs, once its tools are there and init is built: the lint
# checks, then every test with the race detector. It ends with what failed: the
# lint checks, and of each test the first lines that it said.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
read -ra flags <<<"${TESTFLAGS:-}"
failed=0
said=$(mktemp)
trap 'rm -f "$said"' EXIT

GO=$go scripts/lint.sh "$@" || failed=$?
[ $failed = 0 ] || linted='the lint checks failed: see above, or run make lint'

# Those that take longest come first, so that none of them is left over when all
# others are done, with a processor idle beside it.
if [ "${*:-./...}" = ./... ]; then
	set -- ./e2e/vm ./e2e ./bench ./cmd/mayfly ./queue ./build ./...
fi

echo "== go test -race"
# The race detector is the one thing here that needs cgo. Without the setting each
# program that has it sleeps for a second before it ends, and tests start many.
CGO_ENABLED=1 GORACE="atexit_sleep_ms=0 ${GORACE:-}" "$go" test -race -timeout "${TESTTIMEOUT:-30m}" \
	${flags[@]+"${flags[@]}"} "$@" 2>&1 | tee "$said" || failed=$?

# A machine's tests (e2e/vm) fail within another's, so any depth counts.
awk '
	/^[ \t]*--- FAIL: / { left = 12 }
	/^[ \t]*--- (PASS|SKIP): |^ok  |^\?   |^FAIL$/ { left = 0 }
	/^(panic: |fatal error: |FAIL\t|WARNING: DATA RACE)|^[ \t]*panic: test timed out/ { if (left < 6) left = 6 }
	left > 0 { print substr($0, 1, 400); left--; n++ }
	n > 400 { print "and more, above"; exit }
' "$said" >"$said.failed"
if [ -s "$said.failed" ]; then
	printf '\n== what failed\n'
	cat "$said.failed"
fi
rm -f "$said.failed"
[ -z "${linted:-}" ] || echo "$linted" >&2
exit $failed
