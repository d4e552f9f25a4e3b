#!/usr/bin/env bash
# Sets up and runs every test; arguments go to pytest. MINDSPORE=2.7.0 tests with that version, in its own environment.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install "[test]"
cd "$root"
# Two at a time, a file each: most of a test is the compiling of a graph, which takes one core. In the files' order, since
# xdist's own begins with the most tests, and ends with the README's few, which take minutes.
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
