#!/usr/bin/env bash
# Trains: DEVICE=Ascend bash scripts/train.sh --recipe NAME_OR_FILE [--section.key VALUE ...] [--run DIR]
# DEVICE is Ascend, GPU or CPU (default: what MindSpore finds). Paths are relative to where it is called.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install ""
exec "$VENV/bin/python" -m ms_vit.train "$@" ${DEVICE:+--device "$DEVICE"}
