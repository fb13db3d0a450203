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
# The runtime of C++ must be there from the first, or the first exception finds no handler.
preload="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so.6)"
LD_PRELOAD=$preload "$python" -m pytest -s -p no:cacheprovider \
  tests/ops/test_native.py -m "slow or not slow" -k "loop or agree or odd or transposed or vmap or bits or refuse"
