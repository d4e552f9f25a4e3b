#!/usr/bin/env bash
# Sets up and runs every test; arguments go to pytest. MINDSPORE=2.7.0 tests with that version, in its own environment.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install "[test]"
cd "$root"
exec "$VENV/bin/python" -m pytest "$@"
