#!/usr/bin/env bash
# gofmt, go vet and staticcheck over the packages given (all of them if none
# is), and shellcheck over our scripts where it is installed. Every check runs;
# one failure fails all.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
[ $# -gt 0 ] || set -- ./...
failed=0

echo "== gofmt"
ugly=$(find . -name '*.go' -not -path '*/testdata/*' -not -path './.build/*' -exec "$("$go" env GOROOT)/bin/gofmt" -l {} +)
if [ -n "$ugly" ]; then
	printf 'not formatted; run gofmt -w on\n%s\n' "$ugly"
	failed=1
fi

echo "== vet"
"$go" vet "$@" || failed=1

echo "== staticcheck"
"$go" tool staticcheck "$@" || failed=1

if command -v shellcheck >/dev/null; then
	echo "== shellcheck"
	shellcheck .ci/run scripts/*.sh || failed=1
fi
exit $failed
