need python3 "add the package python3 to it"
python3 -m pip --version >/dev/null 2>&1 || { echo "the stack has no pip: add the package python3-pip to it" >&2; exit 127; }
list=$TARGET
if [ "$TARGET" = pyproject.toml ]; then
	list=/tmp/home/requirements.txt
	python3 -c '
import sys, tomllib
with open("pyproject.toml", "rb") as f:
    for line in tomllib.load(f).get("project", {}).get("dependencies", []):
        print(line)
' >"$list" 3>&-
fi
# --no-compile: what is compiled has times in it.
python3 -m pip install --no-compile --no-input --no-cache-dir --no-warn-script-location --disable-pip-version-check --retries 3 \
	--progress-bar off --target .mayfly/python -r "$list" 3>&-
find .mayfly -name __pycache__ -type d -prune -exec rm -rf {} +
finish
