#!/usr/bin/env bash
# What `make test` runs, once its tools are there and init is built: the lint
# checks, then every test with the race detector. It ends with go test's own
# lines and its exit code.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
read -ra flags <<<"${TESTFLAGS:-}"

GO=$go scripts/lint.sh "$@"
echo "== go test -race"
# The race detector is the one thing here that needs cgo.
CGO_ENABLED=1 exec "$go" test -race -timeout "${TESTTIMEOUT:-20m}" ${flags[@]+"${flags[@]}"} "${@:-./...}"
