"""What speaks for an answer: the picture as the network saw it, and in colours over it where it looked."""

import base64
import io
from functools import cached_property

import numpy as np

from ms_vit import limits
from ms_vit.inference.predictor import Predictor
from ms_vit.inference.recorder import Recorder, attention_bytes
from ms_vit.reports.attention import overlay
from ms_vit.reports.gallery import fit
from ms_vit.weights.exports import FORMATS


class Attention:
    """Draws what a predictor's network looks at. That is a network of MindSpore, whatever engine predicts.

    missing: why it can't be drawn, empty where it can.
    """

    def __init__(self, predictor: Predictor, model: str | None):
        self.predictor = predictor
        self.model = model
        config = predictor.spec.config
        tokens = config.extra_tokens + config.patches
        self.missing = ""
        if predictor.weights.suffix == FORMATS["openvino"].suffix:
            self.missing = "an export tells no attention; serve the run or the weights that it was made of"
        elif attention_bytes(config) > limits.MAX_ATTENTION_BYTES:
            self.missing = f"the attention of {tokens:,} tokens takes too much memory"

    @cached_property
    def recorder(self) -> Recorder:
        """Made when it is first asked for: few are asked."""
        return Recorder.load(self.predictor.weights, self.model)

    def __call__(self, prepared: np.ndarray, logits: np.ndarray) -> str:
        """A PNG, as a data URI, of how much each patch of a picture [C, H, W] speaks for its likeliest class."""
        patches = self.recorder(prepared[None], [int(logits.argmax())]).gradient_rollout()[0]
        drawn = overlay(fit(self.predictor.spec.preprocessing.view(prepared)), patches, self.predictor.spec.config)
        file = io.BytesIO()
        drawn.save(file, "PNG")
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
