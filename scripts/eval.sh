#!/usr/bin/env bash
# Scores a checkpoint: DEVICE=Ascend bash scripts/eval.sh CHECKPOINT --data FOLDER [--split val]
# DEVICE is Ascend, GPU or CPU (default: what MindSpore finds). Paths are relative to where it is called.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install ""
exec "$VENV/bin/python" -m ms_vit.eval "$@" ${DEVICE:+--device "$DEVICE"}
