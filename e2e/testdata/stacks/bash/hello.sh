printf 'Content-Type: text/plain\n\n'
jq -rn '"hello from \("bash")"'
