"""ms-vit serve: a web page and a JSON endpoint that name what is on pictures."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from ms_vit import cli, signals
from ms_vit.errors import UsageError
from ms_vit.progress import say

NEEDED = ("starlette", "uvicorn", "python_multipart")


def serve(checkpoint: str | Path, *, host: str = "127.0.0.1", port: int = 8000, top_k: int = 5, batch_size: int = 8,
          model: str | None = None, device: str | None = None, engine: str = "mindspore",
          precision: str = "float32") -> None:
    """Name pictures that come by a web page or from other programs (POST /predict), until Ctrl-C or SIGTERM.

    Args:
        checkpoint: a run folder (its best checkpoint), one of its checkpoints, a weight file, or OpenVINO's .xml.
        host: address to listen on; 127.0.0.1 is for this machine alone, 0.0.0.0 for whoever reaches it.
        port: port to listen on; 0 takes a free one, and tells it.
        top_k: classes named for each picture, where a request doesn't ask for another number.
        batch_size: pictures at once, of those that come together.
        model: name of the network where the checkpoint is another library's, e.g. vit_base_patch16_224.
        device: CPU, GPU or Ascend (default: what MindSpore finds).
        engine: mindspore, onnx (ONNX Runtime), openvino, or auto: the fastest that is installed. The two in the middle
            run on the CPU, by an export that is made once and kept beside the weights.
        precision: of matrix products - float32; bfloat16, faster, on a CPU with AVX512-BF16 and an Ascend from the 910B
            on, not by onnx; float16, for GPU and Ascend.
    """
    cli.at_least_one(batch_size=batch_size, top_k=top_k)
    if missing := [name.replace("_", "-") for name in NEEDED if not find_spec(name)]:
        raise UsageError(f'ms-vit serve needs {" and ".join(missing)}; run: pip install "ms-vit[serve]"')
    # In blocks of 16 MB, Pillow's own, a large picture's memory would stay with us; larger ones go back to the system.
    os.environ.setdefault("PILLOW_BLOCK_SIZE", "128m")
    from ms_vit.serving.server import Server, address, bound, hosts

    with signals.caught() as stop, bound(host, port) as listening:
        from ms_vit.inference.predictor import Predictor
        from ms_vit.serving.app import App

        predictor = Predictor(checkpoint, model=model, device=device, batch_size=batch_size, singly=True, engine=engine,
                              precision=precision)
        app = App(predictor, name=Path(checkpoint).resolve().name, top_k=top_k, model=model)
        known = hosts(listening)
        ready = f"{app.name} answers at {address(listening)}{', whoever asks' if '*' in known else ''}; Ctrl-C ends it"
        stop.patient = True
        Server(app.application(known), stop, ready).run([listening])
        say(f"{app.batches.answered} pictures named")
        stop.check()


def main(argv: list[str] | None = None) -> int:
    return cli.run(serve, argv)


if __name__ == "__main__":
    sys.exit(main())
