need go "use the stack go"
if [ ! -f go.mod ]; then
	printf 'module app\n\ngo %s\n' "$(go env GOVERSION | sed -E 's/^go([0-9]+\.[0-9]+).*/\1/')" >go.mod
fi
export CGO_ENABLED=0 GOPATH=/tmp/home/go
if [ -d /usr/local/lib/go-cache ]; then
	export GOCACHE=/usr/local/lib/go-cache
fi
if [ -n "${WRAPPER:-}" ]; then
	name=$(go list -f '{{.Name}}' "$TARGET" 3>&-)
	if [ "$name" = main ]; then
		printf '%s\n' "$WRAPPER" | sed -e '/CODE_IMPORT/d' -e 's/CODE_HANDLE/Handle/' >"$TARGET/mayfly_wrapper.go"
	else
		at=$(go list "$TARGET" 3>&-)
		mkdir mayfly_wrapper
		printf '%s\n' "$WRAPPER" | sed -e "s,CODE_IMPORT,code \"$at\"," -e 's/CODE_HANDLE/code.Handle/' >mayfly_wrapper/main.go
		TARGET=./mayfly_wrapper
	fi
fi
go build -trimpath -ldflags '-s -w -buildid=' -o ".mayfly/bin/$PROGRAM" "$TARGET" 3>&-
# Nothing reads the source any more.
rm -rf vendor mayfly_wrapper go.mod go.sum go.work go.work.sum
find . -name '*.go' -type f -delete
find . -mindepth 1 -type d -empty -delete
finish
