# CGI/1.1 (RFC 3875): the request is in the environment and on stdin, headers
# and a body go to stdout.
name=world
case ${QUERY_STRING-} in
name=*) name=${QUERY_STRING#name=} ;;
esac
# Only letters pass, so that the name cannot become anything else.
name=$(printf %s "$name" | tr -cd 'A-Za-z' | head -c 40)
printf 'Content-Type: text/plain\r\n\r\n'
printf 'hello, %s\n' "${name:-world}"
