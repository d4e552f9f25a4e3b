#!/usr/bin/env bash
# Names what is on pictures: DEVICE=Ascend bash scripts/infer.sh CHECKPOINT IMAGE_OR_FOLDER ... [--out DIR]
# DEVICE is Ascend, GPU or CPU (default: what MindSpore finds). Paths are relative to where it is called.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install ""
exec "$VENV/bin/python" -m ms_vit.infer "$@" ${DEVICE:+--device "$DEVICE"}
