#!/bin/sh
# make_environment.sh PART          /opt/slipway: a virtual environment with what the lock of PART names, and no more
# make_environment.sh PART WHEELS   adds this package to it
set -eu
part=$1
environment=/opt/slipway
packages=$environment/lib/python3.11/site-packages
if [ $# -eq 1 ]; then
  python -m venv --without-pip "$environment"
  tools/bin/uv pip install --no-cache --link-mode=copy --python "$environment/bin/python" \
    --no-deps --require-hashes --only-binary :all: -r "requirements/images/$part.txt"
  fresh=$packages
else
  tools/bin/uv pip install --no-cache --link-mode=copy --python "$environment/bin/python" --no-deps "$2"/*.whl
  fresh=$packages/slipway
fi
# Helpers that live among the tests stay: numpy.testing imports one.
find "$fresh" \( -path '*/tests/*' -name 'test_*.py' -o -name conftest.py \) -delete
find "$fresh" -type d -path '*/pyarrow/include' -prune -exec rm -rf {} +
# What is compiled does not depend on times or order, and is not checked against its source at each start. Packages carry
# templates and code for other Pythons that do not compile: these stay as they are.
find "$fresh" -name __pycache__ -type d -prune -exec rm -rf {} +
python -m compileall -qq -j 1 --invalidation-mode unchecked-hash "$fresh" || true
