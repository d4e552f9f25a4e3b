"""The page of a run, and of several: what it says against other sources, and how it is in a real browser."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import WIDTHS, flawless, opened
from PIL import Image
from sklearn.calibration import calibration_curve
from test_verbs import TINY, root  # noqa: F401

import ms_vit
from ms_vit.data.labels import Labels
from ms_vit.data.layout import Split
from ms_vit.errors import DataError
from ms_vit.models.config import ViTConfig
from ms_vit.recipe import Recipe
from ms_vit.reports import figures, page, sections, style
from ms_vit.reports.attention import heads_sheet, overlay
from ms_vit.reports.calibration import BINS, calibration
from ms_vit.reports.page import pairs
from ms_vit.reports.pictures import EACH, mistakes
from ms_vit.reports.reading import read_story
from ms_vit.reports.templating import render
from ms_vit.runs.answers import Answers, read_answers
from ms_vit.writing import write_whole

OPTIONS = dict(zip((word.removeprefix("--") for word in TINY[::2]), TINY[1::2], strict=True))


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):       # noqa: F811
    """Two runs on the digits that differ in their rate, shown as they ended."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MS_VIT_REPORT", "on")
        for name, rate in (("slow", 1e-4), ("<b>fast & \"loud\"", 3e-3)):
            recipe = Recipe.load("digits", {**OPTIONS, "data.root": str(root), "train.epochs": 2, "optimizer.lr": rate})
            ms_vit.train(recipe, folder / name)
    return sorted(folder.iterdir())


@pytest.fixture
def copied(runs, tmp_path):
    return Path(shutil.copytree(runs[1], tmp_path / "slow"))


def test_a_run_ends_with_its_page_its_curves_and_its_answers(runs):
    for run in runs:
        text = (run / "report.html").read_text()
        assert 100_000 < len(text) < 5_000_000
        # Nothing comes from elsewhere.
        assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", text)
        assert not re.findall(r"@import|url\((?!#)", text)
        with Image.open(run / "curves.png") as curves:
            assert curves.width > 800
    assert "<b>fast" not in (runs[0] / "report.html").read_text()


def test_answers_are_what_a_predictor_says_of_each_image(runs, root):       # noqa: F811
    story = read_story(runs[0])
    answers = story.answers
    files = sorted((root / "digits/val").glob("*/*.png"))
    assert [str(answers.split.folder / name) for name in answers.images] == list(map(str, files))
    said = ms_vit.Predictor(runs[0])(files[::40])
    for place, answer in zip(range(0, len(files), 40), said, strict=True):
        assert answers.top[place].tolist() == [each.index for each in answer]
        np.testing.assert_allclose(answers.probabilities[place], [each.probability for each in answer], atol=0.02)
    assert answers.right.mean() == pytest.approx(story.best["val_top1"])
    assert answers.in_top5.mean() == pytest.approx(story.best["val_top5"])


def test_eval_writes_the_same_answers_in_any_batches(copied, root, run):        # noqa: F811
    before = read_story(copied)
    code, result, _ = run("eval", copied, "--data", root / "digits", "--batch-size", 7)
    after = read_story(copied)
    assert code == 0 and after.answers.images == before.answers.images
    assert after.answers.right.mean() == result["top1"]
    assert (after.answers.top[:, 0] == before.answers.top[:, 0]).mean() > 0.98       # training may be in bfloat16


def answers_of(labels: list[int], top: list[list[int]], probabilities: list[list[float]]) -> Answers:
    return Answers(Split(Path("data/val")), Path("w"), [f"c/{n}.png" for n in range(len(labels))], np.array(labels),
                   np.array(top), np.array(probabilities))


def test_calibration_is_scikit_learns_and_its_error_the_mean_gap():
    random = np.random.default_rng(0)
    sure = random.uniform(0.2, 1, 500)
    right = random.uniform(size=500) < sure**2
    found = calibration(answers_of([0] * 500, [[0 if each else 1] for each in right], sure[:, None].tolist()))
    top1, confidence = calibration_curve(right, sure, n_bins=BINS)
    told = found.images > 0
    np.testing.assert_allclose(found.top1[told], top1)
    np.testing.assert_allclose(found.confidence[told], confidence)
    assert found.error == pytest.approx(sum(found.images[told] / 500 * abs(top1 - confidence)))


def test_rows_of_classes_by_hand():
    labels = Labels(["a", "b", "c"], ["ant", "bee", "cow"])
    answers = answers_of([0, 0, 0, 1], [[0, 1], [1, 0], [1, 2], [1, 0]], [[0.9, 0.1]] * 4)

    class Story:
        spec, missing = type("Spec", (), {"labels": labels}), []

    Story.answers = answers
    ant, bee = sections.class_rows(Story, None)
    assert (ant.images, ant.top1, ant.top5, ant.precision) == (3, pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0)
    assert (bee.images, bee.top1, bee.precision, bee.taken_for) == (1, 1.0, pytest.approx(1 / 3), "")
    assert ant.taken_for == "bee (2)"
    assert sections.mix_ups(Story) == [("ant", "bee", 2, 3)]


def test_overlays_are_brightest_where_patches_are_looked_at_and_grey_where_not():
    config = ViTConfig(image_size=(20, 28), patch_size=8, num_classes=2, dim=8, depth=1, num_heads=1, mlp_dim=8)
    patches = np.zeros(config.grid)
    patches[1, 1] = 1.0
    picture = Image.fromarray(np.full((20, 28, 3), (30, 90, 60), np.uint8))
    drawn = np.asarray(overlay(picture, patches, config)).astype(int)
    assert drawn.shape == (20, 28, 3)
    brightest = np.unravel_index(drawn.sum(-1).argmax(), (20, 28))
    assert 8 <= brightest[0] < 16 and 8 <= brightest[1] < 16
    assert np.ptp(drawn[0, 27]) == 0 and np.ptp(drawn[19, 0]) == 0       # grey
    assert np.ptp(np.asarray(overlay(picture, np.ones(config.grid), config)).reshape(-1, 3)) == 0   # nothing stands out


def test_figures_follow_the_page_and_keep_their_ids_apart(runs):
    story = read_story(runs[0])
    first, second = (sections.curves([story], figures.CURVES)[at].svg for at in (0, 1))
    assert "var(--ink)" in first and "var(--c1)" in first and "DejaVu" not in first
    ids = [set(re.findall(r'id="([^"]+)"', each)) for each in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    for each, own in zip((first, second), ids, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", each)) <= own
    assert len(style.thinned(range(100_000))) == style.MOST_POINTS and style.thinned(range(100_000))[-1] == 99_999


# --- what is missing, and what is damaged

def test_what_cannot_be_written_leaves_the_run_done(root, tmp_path, monkeypatch, capsys):       # noqa: F811
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setenv("MS_VIT_REPORT", "on")
    monkeypatch.setattr(page, "write_report", full)
    (tmp_path / "run/answers.jsonl").mkdir(parents=True)
    recipe = Recipe.load("digits", {**OPTIONS, "data.root": str(root), "train.epochs": 1})
    assert ms_vit.train(recipe, tmp_path / "run").steps == 44
    told = capsys.readouterr().err
    assert f"can't write {tmp_path / 'run/answers.jsonl'} (is a directory); training goes on" in told
    assert f"couldn't be made (no space left on device); \"ms-vit report {tmp_path / 'run'}\" tries again" in told


def test_without_answers_data_or_recipe_the_page_says_what_it_lacks(copied, root, run, monkeypatch, tmp_path):  # noqa: F811
    (copied / "answers.jsonl").unlink()
    code, result, told = run("report", copied)
    assert code == 0 and "answers.jsonl is not there" in told and f"ms-vit eval {copied} --data" in told
    assert len(result["missing"]) == 1 and "answers.jsonl is not there" in (copied / "report.html").read_text()
    monkeypatch.setenv("MS_VIT_REPORT", "on")
    assert run("eval", copied, "--data", root / "digits")[0] == 0
    assert "answers.jsonl is not there" not in (copied / "report.html").read_text()
    gone = root.rename(root.with_name("gone"))
    try:
        code, result, _ = run("report", copied, "--out", tmp_path / "without.html")
        assert code == 0 and len(result["missing"]) == 2 and "so no pictures of it are shown" in result["missing"][1]
        for name in ("recipe.yaml", "metrics.jsonl"):
            (copied / name).unlink()
        code, result, _ = run("report", copied, "--out", tmp_path / "less.html")
        assert code == 0 and len(result["missing"]) == 3 and (tmp_path / "less.html").stat().st_size > 50_000
    finally:
        gone.rename(root)


def test_a_picture_that_is_gone_leaves_its_place_empty(copied, root, run):       # noqa: F811
    story = read_story(copied)
    worst = root / "digits/val" / story.answers.images[mistakes(story.answers)[0]]
    kept = worst.read_bytes()
    worst.write_bytes(kept[:50])
    try:
        assert run("report", copied)[0] == 0
        text = (copied / "report.html").read_text()
        assert worst.name in text and text.count('as the network sees it" loading') == 2 * EACH + 1 - 1
    finally:
        worst.write_bytes(kept)


@pytest.mark.parametrize("text", ["", "{}", "[]\n[]", "not json", None, '{"folder": "x", "part": "all", "share": 0, '
                                  '"flat": 0, "weights": "w"}\n{"image": 1}'])
def test_damaged_answers_are_told_in_a_line(text, copied, run):
    lines = (copied / "answers.jsonl").read_text()
    (copied / "answers.jsonl").write_text(lines.replace('"label": "3"', '"label": "three"') if text is None else text)
    code, _, told = run("report", copied)
    assert code == 1 and "answers.jsonl is damaged" in told and told.count("\n") == 1


def test_a_folder_without_a_run_is_told_in_a_line(tmp_path, run):
    code, _, told = run("report", tmp_path)
    assert code == 1 and f"{tmp_path} holds no checkpoint" in told
    code, _, told = run("report", tmp_path / "none")
    assert code == 1 and "is not there" in told and not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    code, _, told = run("report", tmp_path / "file")
    assert code == 1 and f"{tmp_path / 'file'} is no folder; give a run folder" in told


def test_answers_come_back_as_they_were_written(tmp_path):
    labels = Labels(["a", "b"], ["ant", "bee"])
    written = Answers(Split(tmp_path / "x", "held out", 0.25, True), tmp_path / "run/checkpoints/1/model.safetensors",
                      ["a/é \u2028.png", "b/2.png"], np.array([0, 1]), np.array([[1, 0], [1, 0]]),
                      np.array([[0.75, 0.25], [0.6, 0.4]]))
    written.write(tmp_path / "answers.jsonl", labels)
    read = read_answers(tmp_path / "answers.jsonl", labels)
    assert (read.split, read.images) == (written.split, written.images)
    assert read.weights.resolve() == written.weights.resolve()
    for name in ("labels", "top", "probabilities"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    with pytest.raises(DataError, match="of another network's classes"):
        read_answers(tmp_path / "answers.jsonl", Labels(["a", "c"], ["ant", "cow"]))


def test_names_that_are_no_utf8_are_written_so_that_one_can_tell(tmp_path):
    text = render("gallery.html", listing=os.fsdecode(b"\xff<.js"), count=1)
    assert "\\udcff&lt;.js" in text
    write_whole(tmp_path / "page.html", text)


# --- several runs

def test_several_runs_stand_side_by_side(runs, run, tmp_path):
    code, result, _ = run("report", *runs, "--out", tmp_path / "both.html")
    text = (tmp_path / "both.html").read_text()
    assert code == 0 and result["missing"] == []
    assert "optimizer.lr" in text and "0.0001" in text and "train.epochs" not in text
    first, second = map(read_story, runs)
    both = (first.answers.right & second.answers.right).sum()
    ((_, _, right, *others),) = pairs([first, second])
    assert right == both and right + sum(others) == len(first.answers)


def test_runs_of_one_name_are_told_apart_by_their_folders(runs, run, tmp_path):
    twins = [Path(shutil.copytree(each, tmp_path / part / "digits")) for part, each in zip("ab", runs, strict=True)]
    assert run("report", *twins, "--out", tmp_path / "both.html")[0] == 0
    text = (tmp_path / "both.html").read_text()
    assert all(f"<th scope=\"col\">{twin}</th>" in text for twin in twins)


# --- in a browser

@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_flawless_in_a_browser(width, scheme, runs, browser):
    seen = opened(browser, runs[0] / "report.html", width=width, scheme=scheme)
    assert seen.page.title() == "<b>fast & \"loud\": vit_tiny_patch16_224 on digits"
    assert seen.page.locator("main img").count() > 30 and seen.page.locator("main svg").count() >= 8
    flawless(seen)


def test_classes_are_sorted_and_filtered_by_keyboard(runs, browser):
    tab = opened(browser, runs[0] / "report.html").page
    column = tab.locator("#per-class tbody tr td:nth-child(4)")
    head = tab.locator("#per-class th", has_text="top-1")
    head.locator("button").focus()
    tab.keyboard.press("Enter")
    ascending = [float(text) for text in column.all_inner_texts()]
    assert ascending == sorted(ascending) and head.get_attribute("aria-sort") == "ascending"
    tab.keyboard.press("Enter")
    assert [float(text) for text in column.all_inner_texts()] == ascending[::-1]
    tab.get_by_label("Only classes with").fill("7")
    shown = [row for row in tab.locator("#per-class tbody tr").all() if row.is_visible()]
    assert 0 < len(shown) < 10 and all("7" in row.inner_text() for row in shown)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_comparison_is_flawless_in_a_browser(width, runs, run, tmp_path, browser):
    run("report", *runs, "--out", tmp_path / "both.html")
    flawless(opened(browser, tmp_path / "both.html", width=width))


# --- the gallery, and what is looked at

@pytest.fixture(scope="module")
def gallery(runs, root, tmp_path_factory):      # noqa: F811
    """The digits of val/, named, with what is looked at in 20 of them."""
    out = tmp_path_factory.mktemp("gallery")
    ms_vit.infer(runs[0], [root / "digits/val"], out=out / "all")
    ms_vit.infer(runs[0], [root / "digits/infer"], out=out / "looked", attention=True)
    return out


@pytest.mark.parametrize("width", WIDTHS)
def test_the_gallery_is_flawless_in_a_browser(width, gallery, browser):
    seen = opened(browser, gallery / "looked/gallery.html", width=width)
    assert seen.page.locator("#pictures img").count() == 20
    flawless(seen)


def test_the_gallery_turns_its_pages_and_filters(gallery, browser):
    tab = opened(browser, gallery / "all/gallery.html").page
    lines = [json.loads(line) for line in (gallery / "all/predictions.jsonl").read_text().splitlines()]
    first = [line["predictions"][0] for line in lines]
    assert tab.locator("#told").inner_text() == f"1 to 100 of {len(lines)}"
    tab.get_by_role("button", name="Next").click()
    assert tab.locator("#told").inner_text() == f"101 to 200 of {len(lines)}"
    tab.get_by_label("Class").select_option(label=next(
        text for text in tab.get_by_label("Class").locator("option").all_inner_texts() if text.startswith("1 (")))
    ones = [answer["probability"] for answer in first if answer["name"] == "1"]
    assert tab.locator("#told").inner_text().endswith(f" of {len(ones)}")
    tab.get_by_label("Confidence from").fill("50")
    sure = sum(probability >= 0.5 for probability in ones)
    assert tab.locator("#told").inner_text().endswith(f" of {sure}") or not sure
    tab.get_by_label("Confidence from").fill("0")
    tab.get_by_label("Sorted by").select_option("up")
    told = tab.locator("#pictures > li > ol > li:first-child").all_inner_texts()
    shown = [float(text.split()[-2]) for text in told]
    assert shown == sorted(shown) and len(shown) == min(100, len(ones))
    tab.get_by_label("File with").fill("nowhere")
    assert tab.locator("#told").inner_text() == "none of the pictures"


def test_ten_thousand_pictures_are_a_small_page(tmp_path, browser):
    from ms_vit.reports.gallery import Drawing, write_gallery

    place = Image.new("RGB", (8, 8))
    drawn = [Drawing(tmp_path / f"a folder/{n}.jpg", tmp_path / f"gallery/{n}.jpg", place, "x",
                     [(n % 1000, 0.9), (1, 0.05)]) for n in range(10_000)]
    drawn[3] = replace(drawn[3], place=tmp_path / os.fsdecode(b"\xff%2F.jpg"))       # a name that isn't UTF-8
    write_gallery(drawn, [f"class {n}" for n in range(1000)], tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 2_000_000
    seen = opened(browser, tmp_path / "gallery.html")
    assert seen.page.locator("#told").inner_text() == "1 to 100 of 10,000"
    assert seen.page.locator("#pictures > li").count() == 100
    assert seen.page.locator("#pictures > li > .soft").nth(3).inner_text() == "%FF%252F.jpg"
    assert not [line for line in seen.console if "ERR_FILE_NOT_FOUND" not in line]      # there are no pictures


def test_what_is_looked_at_lies_beside_each_picture(gallery, root):         # noqa: F811
    looked = sorted((gallery / "looked").glob("*-attention.jpg"))
    assert len(looked) == 20
    with Image.open(looked[0]) as drawn:
        assert drawn.width >= 3 * 192 and np.asarray(drawn).std() > 20
    assert not list((gallery / "all").rglob("*-attention.jpg"))


def test_an_export_alone_cannot_be_looked_into(tmp_path, run):
    (tmp_path / "model.xml").write_text("<net/>")
    (tmp_path / "a.png").write_bytes(b"")
    code, _, told = run("infer", tmp_path / "model.xml", tmp_path / "a.png", "--attention", "--engine", "openvino",
                        "--out", tmp_path / "out")
    assert code == 2 and "that --attention looks into" in told


def test_heads_stand_in_rows_and_blocks_in_columns():
    class Recording:
        config = ViTConfig(image_size=16, patch_size=8, num_classes=2, dim=8, depth=3, num_heads=2, mlp_dim=8)
        attention = np.zeros((3, 1, 2, 5, 5))

        def head(self, layer, head):
            return np.eye(2)[None] if (layer, head) == (2, 1) else np.zeros((1, 2, 2))

    sheet = heads_sheet(Image.new("RGB", (16, 16), "#202020"), Recording(), 0, 40)
    assert sheet.size == (3 * 42 - 2, 2 * 42 - 2)
    bright = np.argwhere(np.asarray(sheet.convert("L")) > 90)
    assert len(bright) and (bright >= [42, 84]).all()
