#!/usr/bin/env bash
# Runs the tests of the handlers that call oneDNN with AddressSanitizer, which ends at the first
# wrong access: some minutes, so no part of the tests. Wants g++ and the extras "native" and "test".
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
folder=.pytest_cache/native
rm -rf "$folder"
trap 'rm -rf "$folder"' EXIT  # others want the handlers without it
export CXXFLAGS="-fsanitize=address -g -O1"
# Python and XLA keep memory to the end, and only what is built here is watched.
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1
LD_PRELOAD=$(g++ -print-file-name=libasan.so) "$python" -m pytest -p no:cacheprovider \
  tests/ops/test_native.py -k "loop or agree or odd or transposed or vmap or bits or refuse"
