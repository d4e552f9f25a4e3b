#!/usr/bin/env bash
# Fetches a data set: bash scripts/download.sh CARD [--root DIR] [--source FILE_OR_URL]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install ""
exec "$VENV/bin/python" -m ms_vit.download "$@"
