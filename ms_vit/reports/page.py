"""report.html: a run, or several side by side, on one page that a browser opens from the disk."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ms_vit.reports import figures, sections
from ms_vit.reports.pictures import doubtful_hits, mistakes
from ms_vit.reports.reading import Story, read_story
from ms_vit.reports.templating import render
from ms_vit.weights.files import read_arrays
from ms_vit.writing import write_whole


def write_report(folders: Sequence[Path], out: Path) -> list[str]:
    """Writes the page of these run folders; returns what it couldn't show, in lines.

    Raises DataError where one of them holds no checkpoint, or a file of it is damaged.
    """
    stories = [read_story(folder) for folder in folders]
    if len({story.name for story in stories}) < len(stories):       # runs/a/digits and runs/b/digits
        stories = [replace(story, name=str(story.folder)) for story in stories]
    if len(stories) == 1:
        (story,) = stories
        text = render("report.html", **one(story))
        if story.epochs:
            figures.draw_curves(story, out.with_name("curves.png"))
    else:
        text = render("comparison.html", **several(stories))
    write_whole(out, text)
    return [line for story in stories for line in story.missing]


# --- one run

def one(story: Story) -> dict[str, Any]:
    """What the page of one run shows."""
    data = sections.data_of(story, sections.layout_of(story))
    arrays = read_arrays(story.weights)
    table = sections.costs_of(story, arrays)
    shown = sections.opened(story)
    return {
        "story": story, "summary": sections.summary(story, table), "curves": sections.curves([story], figures.CURVES),
        "answers": story.answers, "split": str(story.answers.split) if story.answers else "",
        "confusion": sections.confusion_of(story), "mix_ups": sections.mix_ups(story),
        "classes": sections.class_rows(story, data),
        "reliability": sections.reliability_of([story]),
        "groups": [("Most confident mistakes", sections.examples(shown, mistakes(shown.answers))),
                   ("Least confident hits", sections.examples(shown, doubtful_hits(shown.answers)))] if shown else [],
        "heads": sections.heads(shown), "data": data, "costs": table,
        "first": sections.first_layers(story, arrays, shown),
        "pace": sections.curves([story], figures.PACE) if story.steps else [],
        "yaml": story.recipe.to_yaml() if story.recipe else "", "missing": story.missing}


# --- several runs

def several(stories: Sequence[Story]) -> dict[str, Any]:
    """What the page of several runs shows."""
    summaries = [{name: (value, of) for name, value, of in sections.summary(
        story, sections.costs_of(story, read_arrays(story.weights)))} for story in stories]
    names = list(dict.fromkeys(name for each in summaries for name in each))
    return {"stories": stories, "names": names, "summaries": summaries, "differences": differences(stories),
            "curves": sections.curves(stories, figures.CURVES), "reliability": sections.reliability_of(stories),
            "classes": classes_compared(stories), "pairs": pairs(stories),
            "pace": sections.curves(stories, figures.PACE), "missing": [f"{story.name}: {line}" for story in stories
                                                               for line in story.missing]}


def differences(stories: Sequence[Story]) -> list[tuple[str, list[str]]]:
    """Keys of the recipes that are not the same in all runs, with each one's value."""
    flat = [{f"{section}.{key}": value for section, values in story.recipe.as_dict().items()
             for key, value in values.items()} if story.recipe else {} for story in stories]
    keys = dict.fromkeys(key for each in flat for key in each)
    found = [(key, [str(each.get(key, "")) for each in flat]) for key in keys]
    return [(key, values) for key, values in found if len(set(values)) > 1]


def classes_compared(stories: Sequence[Story]) -> list[tuple[str, str, list[float | None]]]:
    """Each class's id, name and top-1 by each run, where that was asked."""
    by_run = [{row.id: row for row in sections.class_rows(story, None)} for story in stories]
    ids = dict.fromkeys(id for rows in by_run for id in rows)
    return [(id, next(rows[id].name for rows in by_run if id in rows),
             [rows[id].top1 if id in rows else None for rows in by_run]) for id in ids]


def pairs(stories: Sequence[Story]) -> list[tuple[str, str, int, int, int, int]]:
    """Of each run and the first, over the images that both answered: both right, one alone right, none right."""
    first, *others = stories
    found = []
    for other in others:
        if first.answers is None or other.answers is None:
            continue
        known = dict(zip(first.answers.images, first.answers.right.tolist(), strict=True))
        both = [(known[image], right) for image, right in
                zip(other.answers.images, other.answers.right.tolist(), strict=True) if image in known]
        if both:
            found.append((first.name, other.name, both.count((True, True)), both.count((True, False)),
                          both.count((False, True)), both.count((False, False))))
    return found
