"""Distillation: a student learns from a teacher's logits, too (Hinton et al. 2015; Touvron et al. 2021, "DeiT")."""

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_vit.errors import DataError, UsageError
from ms_vit.models.vit import ViT
from ms_vit.progress import say
from ms_vit.recipe import RECIPES, Loss, Recipe
from ms_vit.runs.checkpoints import model_file
from ms_vit.training.losses import CrossEntropy, targets_of
from ms_vit.weights.files import ModelSpec
from ms_vit.weights.loading import load_model


class Teacher(nn.Cell):
    """(images [B, C, H, W], labels [B] or targets [B, C]) -> targets [B, 2, C]: those, and the teacher's logits.

    It sees the images as the student does, augmented and mixed; for another image size than the student's they are
    resampled, for another mean and std normalised anew. Its classes may come in another order.

    net, spec: the teacher's. student: the student's. Raises UsageError where their classes or channels differ.
    """

    def __init__(self, net: ViT, spec: ModelSpec, student: ModelSpec, path: Path):
        super().__init__(auto_prefix=False)
        if set(spec.labels.ids) != set(student.labels.ids):
            other = sorted(set(spec.labels.ids) ^ set(student.labels.ids))
            raise UsageError(f"the teacher {path} has other classes than the student: {', '.join(other[:3])}"
                             f"{' ...' if other[3:] else ''}; train one on the same classes")
        if spec.config.channels != student.config.channels:
            raise UsageError(f"the teacher {path} sees images of {spec.config.channels} channels, the student of "
                             f"{student.config.channels}; give another")
        for parameter in net.get_parameters():
            parameter.name = f"teacher.{parameter.name}"        # one graph holds both
            parameter.requires_grad = False
        self.net = net
        self.order = Tensor([spec.labels.ids.index(each) for each in student.labels.ids], ms.int32)
        seen, shown = spec.preprocessing, student.preprocessing
        self.same = (seen.mean, seen.std) == (shown.mean, shown.std)
        (mean, std), (seen_mean, seen_std) = (
            (np.array(each.mean).reshape(-1, 1, 1), np.array(each.std).reshape(-1, 1, 1)) for each in (shown, seen))
        self.scale = Tensor(std / seen_std, ms.float32)
        self.shift = Tensor((mean - seen_mean) / seen_std, ms.float32)
        self.size = spec.config.height_and_width
        self.resized = self.size != student.config.height_and_width

    def add_flags_recursive(self, **flags):
        """A teacher doesn't train, whatever the step that it is part of does."""
        return super().add_flags_recursive(**flags | ({"training": False} if "training" in flags else {}))

    def construct(self, images, labels):
        if not self.same:
            images = images * self.scale + self.shift
        if self.resized:
            images = ops.interpolate(images, size=self.size, mode="bilinear", align_corners=False)
        logits = ops.gather(self.net(images).astype(ms.float32), self.order, 1)        # [B, C]
        return ops.stack((targets_of(labels, logits.shape[1]), logits), 1)


class BothHeads(nn.Cell):
    """A distilled ViT in training: images [B, C, H, W] -> logits [B, C] of the class head and of the teacher's."""

    def __init__(self, net: ViT):
        super().__init__(auto_prefix=False)
        self.net = net
        self.blocks = net.blocks

    def embed(self, x):
        return self.net.embed(x)

    def classify(self, x):
        return self.net.both_logits(x)

    def construct(self, x):
        return self.classify(self.blocks(self.embed(x)))


class Distillation(nn.Cell):
    """(logits [B, C], or those of both heads; targets [B, 2, C] of Teacher) -> a scalar, float32.

    (1 - alpha) * loss + alpha * what the teacher's logits make. hard: cross-entropy with its best class (DeiT, eq. 3);
    soft: temperature^2 * KL divergence from its probabilities at a temperature (Hinton et al. 2015, sec. 2; DeiT,
    eq. 2). Where there are both heads, the one learns from the labels, the other from the teacher.
    """

    def __init__(self, loss: nn.Cell, settings: Loss, *, both_heads: bool):
        super().__init__()
        self.loss = loss
        self.alpha = settings.distill_alpha
        self.temperature = settings.distill_temperature
        self.hard = settings.distill == "hard"
        self.both_heads = both_heads
        self.cross_entropy = CrossEntropy()

    def construct(self, logits, targets):
        of_labels, of_teacher = logits if self.both_heads else (logits, logits)
        labels, teacher = targets[:, 0], targets[:, 1]
        if self.hard:
            taught = self.cross_entropy(of_teacher, ops.argmax(teacher, -1).astype(ms.int32))
        else:
            wanted = ops.log_softmax(teacher / self.temperature, -1)
            given = ops.log_softmax(of_teacher.astype(ms.float32) / self.temperature, -1)
            taught = self.temperature**2 * (ops.exp(wanted) * (wanted - given)).sum(-1).mean()
        return (1 - self.alpha) * self.loss(of_labels, labels) + self.alpha * taught


def taught(net: ViT, loss: nn.Cell, recipe: Recipe, spec: ModelSpec) -> tuple[nn.Cell, nn.Cell, Teacher | None]:
    """What learns, by which loss, and from which teacher: as they are given, where the recipe names none.

    The teacher is a run's best, or a weight file's network. Raises UsageError or DataError where it can't teach.
    """
    if recipe.train.teacher is None:
        return net, loss, None
    given = recipe.train.teacher
    if not given.exists() and (RECIPES / f"{given.name}.yaml").is_file():      # a recipe's own, where none is named
        raise DataError(f"the teacher {given} is not there; to train it first: ms-vit train --recipe {given.name} "
                        f"--run {given}")
    path, both = model_file(given), net.config.distilled
    teacher = Teacher(*load_model(path, recipe.train.teacher_model), spec, path)
    say(f"taught by {path}: {sum(parameter.size for parameter in teacher.net.get_parameters()):,} parameters"
        + (f", images resampled to {'x'.join(map(str, teacher.size))}" if teacher.resized else ""))
    return BothHeads(net) if both else net, Distillation(loss, recipe.loss, both_heads=both), teacher
