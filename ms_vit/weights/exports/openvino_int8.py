"""An OpenVINO file in int8, by NNCF's post-training quantisation for transformers.

SmoothQuant (Xiao et al. 2023) moves what is extreme in activations into the weights that they meet, and biases are
corrected by what rounding shifts on average.
"""

import contextlib
import io
import logging
import os
from pathlib import Path

import numpy as np
import openvino as ov

os.environ.setdefault("NNCF_CI", "1")       # otherwise it tells its makers of each use, over the network
import nncf

from ms_vit.weights.exports.checked import beside


def quantize(path: Path, images: list[np.ndarray]) -> None:
    """Makes an .xml in float32 one in int8, calibrated on `images`, each [1, C, H, W] float32."""
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):     # its bars; stdout is for results
        model = nncf.quantize(ov.Core().read_model(path), nncf.Dataset(images), subset_size=len(images),
                              model_type=nncf.ModelType.TRANSFORMER)
    with beside(path) as part:      # the old file is still mapped into memory
        ov.save_model(model, part, compress_to_fp16=False)
