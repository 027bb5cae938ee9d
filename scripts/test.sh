#!/usr/bin/env bash
# What `make test` runs, once its tools are there and init is built: the lint
# checks, then every test with the race detector. It ends with go test's own
# lines, and with what the lint checks found if they found anything.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
[ $# -gt 0 ] || set -- ./...
read -ra flags <<<"${TESTFLAGS:-}"
failed=0

GO=$go scripts/lint.sh "$@" || failed=$?
[ $failed = 0 ] || linted='the lint checks failed: see above, or run make lint'

echo "== go test -race"
# The race detector is the one thing here that needs cgo.
CGO_ENABLED=1 "$go" test -race -timeout "${TESTTIMEOUT:-20m}" ${flags[@]+"${flags[@]}"} "$@" || failed=$?

[ -z "${linted:-}" ] || echo "$linted" >&2
exit $failed
