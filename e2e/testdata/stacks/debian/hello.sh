apt-get --version >/dev/null && echo hello from debian
