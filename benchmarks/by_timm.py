"""What `ms-vit infer` and `ms-vit eval` are asked, answered by timm on PyTorch: python -m benchmarks.by_timm TASK ...

A script as timm's documentation and torchvision's have it, for benchmarks.commands to be compared with. It prints its
answer: the five most probable ids of a picture's class, or the top-1 of a folder of class folders.
"""

import sys

from benchmarks import torch_cpu  # noqa: F401 (before timm)
from benchmarks.contenders import cores

# isort: split
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder


def main(task: str, model: str, weights: str, path: str) -> None:
    net = timm.create_model(model, checkpoint_path=weights).eval()
    prepare = create_transform(**resolve_model_data_config(net))
    ids = ImageNetInfo().label_names()
    with torch.inference_mode():
        if task == "infer":
            chances = net(prepare(Image.open(path).convert("RGB"))[None]).softmax(-1)[0]
            print(*(ids[each] for each in chances.topk(5).indices))
        else:
            images = ImageFolder(path, prepare)
            wanted = torch.tensor([ids.index(id) for id in images.classes])
            hits = sum(int((net(batch).argmax(-1) == wanted[labels]).sum())
                       for batch, labels in DataLoader(images, batch_size=32, num_workers=cores()))
            print(hits / len(images))


if __name__ == "__main__":
    main(*sys.argv[1:])
