#!/usr/bin/env bash
# Runs each fuzz target for FUZZTIME. Seeds alone are run by `go test` already. An
# input that covers more is made smaller in some tries only: Go's minute of that for
# each looks as if a target hangs (0/sec), and leaves nothing of FUZZTIME.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}

grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort |
	while IFS=: read -r file func; do
		name=${func#func }
		echo "== $(dirname "$file") $name"
		"$go" test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-10s}" -fuzzminimizetime 100x "$(dirname "$file")" </dev/null
	done
