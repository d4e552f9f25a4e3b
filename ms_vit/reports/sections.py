"""What a page of runs shows, section by section: made of a Story, as a template takes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ms_vit.data.inspection import left_out
from ms_vit.data.layout import Layout, Split, find_layout
from ms_vit.errors import UserError
from ms_vit.models.costs import Cost, costs, forward_flops
from ms_vit.progress import duration
from ms_vit.reports import figures
from ms_vit.reports.calibration import calibration
from ms_vit.reports.pictures import Example, Shown, augmented
from ms_vit.reports.reading import Story
from ms_vit.reports.style import data_uri, panels, svg

MIX_UPS = 10        # that are listed
STEM = "patch_embed.stem.0.conv.weight", "patch_embed.stem.0.conv1.weight"


@dataclass
class Chart:
    """A figure of the page: what it shows in words, and itself as SVG."""

    words: str
    svg: str


@dataclass
class ClassRow:
    """A class of the per-class table; shares from 0 to 1, None where there is nothing to take a share of."""

    id: str
    name: str
    images: int
    top1: float | None
    top5: float | None
    precision: float | None
    trained: int | None
    taken_for: str


@dataclass
class Data:
    """The images of a run: what its splits are for, the classes with the fewest and the most to train on, samples."""

    splits: list[tuple[str, str, int]] = field(default_factory=list)
    trained: dict[str, int] = field(default_factory=dict)       # by class folder
    fewest: tuple[str, int] = ("", 0)
    most: tuple[str, int] = ("", 0)
    samples: list[tuple[str, str]] = field(default_factory=list)    # class, picture
    left_out: int = 0


def layout_of(story: Story) -> Layout | None:
    """The images that the run was trained on; None where they aren't there."""
    if story.recipe is None:
        return None
    data = story.recipe.data
    try:
        if not data.folder.is_dir():
            raise FileNotFoundError
        return find_layout(data.folder, data.holdout)
    except (UserError, OSError):
        story.missing.append(f"the images that it was trained on, {data.folder}, are not there as they were, so none "
                             "of them are shown")
        return None


def data_of(story: Story, layout: Layout | None) -> Data | None:
    if layout is None or story.recipe is None:
        return None
    parts: list[tuple[str, Split | None]] = [("training", layout.train), ("validation", layout.val),
                                             ("scored once, at the end", layout.final)]
    images = {use: split.images() for use, split in parts if split}
    data = Data([(use, str(split), sum(map(len, images[use].values()))) for use, split in parts if split],
                {id: len(files) for id, files in images["training"].items()})
    names = story.spec.labels.names
    index = story.spec.labels.index
    ordered = sorted((count, id) for id, count in data.trained.items() if id in index)
    if ordered:
        (few, first), (many, last) = ordered[0], ordered[-1]
        data.fewest, data.most = (names[index[first]], few), (names[index[last]], many)
    bad = left_out(story.folder) or {}
    data.left_out = len(bad)
    try:
        data.samples = [(name, data_uri(view)) for name, view in augmented(story.recipe, story.spec, layout, bad)]
    except UserError as error:
        story.missing.append(f"there are no augmented images, since {error}")
    return data


def costs_of(story: Story, arrays: Mapping[str, np.ndarray]) -> list[Cost]:
    return costs(story.spec.config, {name: array.size for name, array in arrays.items()})


def summary(story: Story, table: list[Cost]) -> list[tuple[str, str, str]]:
    """What a run came to: names, values, and what they are of."""
    best, final, told = story.best, story.final, []
    if final:
        told.append(("top-1", percent(final["final_top1"]), f"{final['final']}, scored once, at the end"))
        told.append(("top-5", percent(final["final_top5"]), "likewise"))
    if best:
        told.append(("validation top-1", percent(best["val_top1"]), f"epoch {best['epoch']} of {len(story.epochs)}"))
        told.append(("validation top-5", percent(best["val_top5"]), "the same epoch"))
    elif story.answers:
        told.append(("top-1", percent(float(story.answers.right.mean())), str(story.answers.split)))
    if story.answers:
        told.append(("calibration error", percent(calibration(story.answers).error), "ECE, 15 bins; 0 is best"))
    told.append(("parameters", short(sum(cost.parameters for cost in table)), "of the network"))
    told.append(("operations", f"{short(forward_flops(story.spec.config))}FLOP", "of one image forward"))
    if story.epochs:
        told.append(("training took", duration(story.seconds), "validation included"))
    if story.steps:
        rates = [line["images_per_second"] for line in story.steps]
        told.append(("speed", f"{np.median(rates):,.0f} images/s", "median"))
        waits = [line["data_wait"] for line in story.steps]
        told.append(("waiting for data", percent(float(np.mean(waits))), "of the time of training"))
    return told


def curves(stories: Sequence[Story], kinds: dict[str, Any]) -> list[Chart]:
    made = []
    for name, draw in kinds.items():
        figure, (axes,) = panels()
        draw(axes, stories)
        made.append(Chart(in_words(name, stories), svg(figure, f"curve-{name.replace(' ', '-')}")))
    return made


def in_words(name: str, stories: Sequence[Story]) -> str:
    """What a curve shows, for who can't see it."""
    parts = []
    for story in stories:
        key, scale, unit = {"loss": ("val_loss", 1, ""), "accuracy": ("val_top1", 100, " %")}.get(name, ("", 1, ""))
        values = [scale * line[key] for line in story.epochs if key in line]
        if values:
            parts.append(f"{story.name}: validation {values[0]:.3g}{unit} after epoch 1, {values[-1]:.3g}{unit} after "
                         f"epoch {len(values)}")
    return f"{name} over training" + (f". {'; '.join(parts)}" if parts else "")


def confusion_of(story: Story) -> Chart | None:
    if story.answers is None:
        return None
    labels = story.spec.labels
    counts = story.answers.confusion(len(labels))
    met = np.flatnonzero(counts.sum(0) + counts.sum(1))      # ten of a thousand classes, maybe
    figure = figures.confusion(counts[np.ix_(met, met)], [labels.names[index] for index in met])
    return Chart("confusion matrix; its largest mix-ups are listed beside it", svg(figure, "confusion"))


def mix_ups(story: Story) -> list[tuple[str, str, int, int]]:
    """The most frequent: what it is, what it was taken for, how often, of how many."""
    if story.answers is None:
        return []
    names, counts = story.spec.labels.names, story.answers.confusion(len(story.spec.labels))
    totals = counts.sum(1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:MIX_UPS]
    pairs = [divmod(int(place), len(names)) for place in order]
    return [(names[i], names[j], int(counts[i, j]), int(totals[i])) for i, j in pairs if counts[i, j]]


def class_rows(story: Story, data: Data | None) -> list[ClassRow]:
    if story.answers is None:
        return []
    labels, answers = story.spec.labels, story.answers
    counts = answers.confusion(len(labels))
    in_top5 = np.bincount(answers.labels[answers.in_top5], minlength=len(labels))
    rows = []
    for index in np.flatnonzero(counts.sum(0) + counts.sum(1)).tolist():
        images, said, right = counts[index].sum(), counts[:, index].sum(), counts[index, index]
        wrong = counts[index].copy()
        wrong[index] = 0
        worst = int(wrong.argmax())
        id, name = labels.ids[index], labels.names[index]
        trained = data.trained.get(id, data.trained.get(name)) if data else None
        rows.append(ClassRow(id, name, int(images), share(right, images), share(in_top5[index], images),
                             share(right, said), trained,
                             f"{labels.names[worst]} ({wrong[worst]:,})" if wrong[worst] else ""))
    return rows


def reliability_of(stories: Sequence[Story]) -> Chart | None:
    told = [story for story in stories if story.answers]
    if not told:
        return None
    errors = ", ".join(f"{story.name} {percent(calibration(story.answers).error)}" for story in told if story.answers)
    words = f"how far probabilities come true; expected calibration error: {errors}"
    return Chart(words, svg(figures.reliability(told), "reliability"))


def opened(story: Story) -> Shown | None:
    """What shows the run's images; None where there are no answers, or the images are gone."""
    if story.answers is None:
        return None
    try:
        return Shown(story.answers)
    except (UserError, OSError):
        story.missing.append(f"{story.answers.split}, or what answered about it, {story.answers.weights}, is not there "
                             "as it was, so no pictures of it are shown")
        return None


@dataclass
class Picture:
    """An example with its pictures as the page holds them."""

    told: Example
    view: str
    rollout: str
    spoke_for: str


def examples(shown: Shown, places: list[int]) -> list[Picture]:
    return [Picture(told, *("" if each is None else data_uri(each)
                            for each in (told.view, told.rollout, told.spoke_for)))
            for told in shown.examples(places)]


def heads(shown: Shown | None) -> dict[str, Any] | None:
    """Each head of each block, on the most confident hit."""
    if shown is None or not shown.answers.right.any():
        return None
    answers = shown.answers
    place = int(np.argmax(answers.probabilities[:, 0] * answers.right))
    found = shown.heads(place)
    return {"told": shown.told(place), "view": data_uri(found[0]), "sheet": data_uri(found[1]),
            "width": found[1].width, "height": found[1].height} if found else None


def first_layers(story: Story, arrays: dict[str, np.ndarray], shown: Shown | None) -> list[Chart]:
    """How an image is cut, and what the layers learnt that see it first."""
    config, charts = story.spec.config, []
    if shown and (ready := shown.prepare(shown.answers.images[0])) is not None:
        each = f"each of {config.patch_size} x {config.patch_size} pixels" + (
            "" if config.stem else f", {config.channels * config.patch_size**2} numbers")
        grid = figures.patch_grid(story.spec.preprocessing.view(ready), config)
        charts.append(Chart(f"an image in {config.patches} patches, {each}", svg(grid, "patches")))
    positions = arrays.get("pos_embed")
    if positions is not None:
        figure = figures.position_similarity(positions[0, -config.patches:], config)
        charts.append(Chart("for each patch, how alike its position embedding is to all others'",
                            svg(figure, "positions")))
    weight = next((arrays[name] for name in (*STEM, "patch_embed.proj.weight") if name in arrays), None)
    if weight is not None and weight.shape[1] in (1, 3):
        words = "the filters of the first convolution" if config.stem else \
            "the principal components of the filters that patches are projected by"
        charts.append(Chart(words, svg(figures.first_filters(weight), "filters")))
    return charts


# --- words

def share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def short(number: float) -> str:
    """12,345,678 -> 12.3 M, with a space before what it is counted in."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g} "
