#!/bin/sh
# Build a virtual environment from requirements.lock: sh tools/make_env.sh .venv
# With uv where it is installed, else with python3 -m venv and pip; hashes are checked either way.
set -eu
target=$1
# packages belong into the new environment, whatever pip is told elsewhere
export PIP_USER=0
unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIRE_VIRTUALENV PYTHONHOME

for candidate in python3 python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "${python:-}" ]; then
  found=$(python3 --version 2>/dev/null || echo "no python3")
  echo "error: Python 3.11, 3.12 or 3.13 is needed; found $found" >&2
  exit 1
fi

echo "building $target with $($python --version) (about 2 minutes, 2.5 GB)"
rm -rf "$target"
if command -v uv >/dev/null 2>&1; then
  uv venv --quiet --python "$python" "$target"
  uv pip install --quiet --python "$target/bin/python" --require-hashes -r requirements.lock
else
  "$python" -m venv "$target" || {
    echo "error: $python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 1
  }
  "$target/bin/python" -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements.lock
fi
# lib itself, so that notebooks opened anywhere can import it; setuptools comes from the lock
"$target/bin/python" -m pip --disable-pip-version-check install --quiet --quiet --no-deps --no-build-isolation --editable .
"$target/bin/python" -m tools.fetch_weights || \
  echo "the environment is complete; make check fetches the weights when a run needs them" >&2
touch "$target/.ready"
