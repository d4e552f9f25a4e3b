"""ms-vit: Vision Transformer image classification on MindSpore.

The verbs are functions here, too: ms_vit.download, check, train, eval, infer. What is behind a name is imported when it
is first used, so that `import ms_vit` costs nothing.
"""

import importlib
import os
import sys
import types
from typing import Any

__version__ = "0.2.0.dev0"

# MindSpore's own warnings (level 2) are about its internals, such as each graph that isn't kept yet; errors still show.
# It reads this when it is imported.
os.environ.setdefault("GLOG_v", "3")

_VERBS = ("download", "check", "pack", "train", "eval", "infer", "serve", "report", "export", "doctor")
_HOME = {verb: f"ms_vit.{verb}" for verb in _VERBS} | {
    "Recipe": "ms_vit.recipe",
    "Predictor": "ms_vit.inference.predictor",
    "ViT": "ms_vit.models.vit",
    "create_model": "ms_vit.models.vit",
    "load_weights": "ms_vit.weights.loading",
    "features": "ms_vit.inference.recorder",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ms_vit' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


class _Package(types.ModuleType):
    """Python binds a package's modules as its attributes; here a verb's attribute stays the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, getattr(value, name) if name in _VERBS else value)


sys.modules[__name__].__class__ = _Package
