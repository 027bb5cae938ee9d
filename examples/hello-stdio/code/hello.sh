# The request's body is on stdin, the answer goes to stdout, and the exit code
# says whether it went well.
name=$(head -c 100)
if [ -z "$name" ]; then
	echo 'send a name' >&2
	exit 1
fi
printf 'hello, %s\n' "$name"
