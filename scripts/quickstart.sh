#!/usr/bin/env bash
# The whole main job on 1,797 real handwritten digits: download, check, train, eval, infer. About 2 minutes on two cores.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install ""
cd "$root"
ms_vit="$VENV/bin/ms-vit"

echo "== 1/5 download: the data set as folders of images" >&2
"$ms_vit" download digits
echo "== 2/5 check: every image is read" >&2
"$ms_vit" check data/digits
echo "== 3/5 train: a small Vision Transformer from scratch" >&2
"$ms_vit" train --recipe digits --run runs/digits
echo "== 4/5 eval: every image of val/" >&2
"$ms_vit" eval runs/digits --data data/digits --split val
echo "== 5/5 infer: pictures it has never seen" >&2
"$ms_vit" infer runs/digits data/digits/infer
echo "== done. Look at $root/runs/digits/report.html and $root/runs/digits/predictions/gallery.html in a browser" >&2
