"""The comparison with other libraries: what it counts, and a small one from end to end."""

import json
import os
import signal
from pathlib import Path

import pytest
from conftest import REPOSITORY
from PIL import Image

from benchmarks import compare as comparing
from benchmarks import growth as growing
from benchmarks import measure as measuring
from benchmarks import targets as targeting
from benchmarks.jobs import MODELS, Job, Model, vit
from benchmarks.measure import Entry, Failure, Row, Spread, Worker
from benchmarks.report import Panel, around, machine
from benchmarks.targets import Target
from ms_vit.models.config import ViTConfig
from ms_vit.models.costs import forward_flops

SMALL = ViTConfig(image_size=32, patch_size=8, dim=32, depth=2, num_heads=2, mlp_dim=96, num_classes=5)


@pytest.fixture(autouse=True)
def a_small_model(monkeypatch):
    monkeypatch.setitem(MODELS, "small", Model("small", SMALL, 4))


def timm_model():
    pytest.importorskip("benchmarks.torch_cpu", reason="PyTorch is a contender: pip install -e .[parity]")
    timm = pytest.importorskip("timm")
    return timm.models.vision_transformer.VisionTransformer(
        img_size=SMALL.image_size, patch_size=SMALL.patch_size, embed_dim=SMALL.dim, depth=SMALL.depth,
        num_heads=SMALL.num_heads, mlp_ratio=SMALL.mlp_dim / SMALL.dim, num_classes=SMALL.num_classes)


def test_flops_are_those_counted_by_hand():
    """One block of one head on one patch: two tokens of width 64."""
    config = vit(64, 1, image_size=4, patch_size=4, num_classes=10)
    patch, qkv, proj, mlp = 2 * 48 * 64, 2 * 2 * 64 * 192, 2 * 2 * 64 * 64, 2 * (2 * 2 * 64 * 256)
    scores = mix = 2 * 2 * 2 * 64
    assert forward_flops(config) == patch + qkv + scores + mix + proj + mlp + 2 * 64 * 10


def test_flops_are_those_that_pytorch_counts():
    model = timm_model()
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    for block in model.blocks:
        block.attn.fused_attn = False       # the counter knows products, not every fused attention
    images = torch.randn(4, 3, SMALL.image_size, SMALL.image_size)
    with FlopCounterMode(display=False) as forward:
        loss = model(images).sum()
    assert forward.get_total_flops() == Job(shape=SMALL, batch=4, mode="infer").flops
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    counted = forward.get_total_flops() + backward.get_total_flops()
    first = 4 * 2 * 16 * 3 * 8 * 8 * SMALL.dim      # the gradient of the images, which nobody computes
    assert counted == Job(shape=SMALL, batch=4, mode="train").flops - first


def row(contender: str, seconds: list[float], *, images: int = 8, flops: int = 2_000_000_000) -> Row:
    return Row(contender=contender, framework="", versions={}, parameters=7, images=images, flops=flops, first_step=1.0,
               seconds=seconds)


def test_a_spread_is_minimum_median_and_maximum():
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(1.0, 3.0, 10.0)
    assert Spread.of([4.0, 1.0]).median == 2.5


def test_rows_are_set_against_ours_and_the_faster_sgemm():
    job = Job(shape=SMALL, batch=8, mode="infer")
    rows = [row("ours", [0.5, 4.0, 1.0]), row("timm", [2.0, 2.0, 3.0]),
            row("sgemm-torch", [0.2], images=0), row("sgemm-mindspore", [0.1, 0.1, 9.0], images=0)]
    _, ours, timm, sgemm, _ = Panel("small", job, rows, []).table()
    assert ours[2:7] == ["8.00", "2.00 - 16.0", "1.00 x", "2.00", "10 %"]
    assert timm[2:7] == ["4.00", "2.67 - 4.00", "2.00 x", "1.00", "5 %"]
    assert sgemm[2:7] == ["", "", "", "10.0", "50 %"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison on a small model: (its table, the folder of its files)."""
    pytest.importorskip("benchmarks.torch_cpu", reason="PyTorch is a contender: pip install -e .[parity]")
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "small", Model("small", SMALL, 4))
        absent = out / "absent" / "mindcv.py"
        absent.parent.mkdir()
        absent.write_text("raise ModuleNotFoundError('no', name='mindcv')")
        patch.setenv("PYTHONPATH", str(absent.parent))
        comparing.compare(models="small", modes="train", contenders="ours,timm,mindcv", rounds=2, out=out, name="x")
    return out


def test_a_comparison_has_every_contender_and_a_chart(compared):
    record = json.loads((compared / "x.json").read_text())
    (panel,) = record["panels"]
    ours, timm = panel["rows"]
    assert (ours["contender"], timm["contender"]) == ("ours", "timm")
    assert ours["parameters"] == timm["parameters"] == sum(p.numel() for p in timm_model().parameters())
    for found in (ours, timm):
        assert len(found["seconds"]) == 2 and min(found["seconds"]) > 0
        assert found["first_step"] > max(found["seconds"]) and found["peak_bytes"] > 50 * 2**20
        assert found["images_per_second"]["max"] == 4 / min(found["seconds"])
    assert ours["versions"]["mindspore"] and timm["versions"]["timm"] and "torch" not in ours["versions"]
    assert record["machine"]["cores"] == len(os.sched_getaffinity(0))
    page = (compared / "x.md").read_text()
    assert "| ours | MindSpore" in page and "| timm | PyTorch" in page and "(x.png)" in page
    with Image.open(compared / "x.png") as chart:
        chart.load()
    assert not list(compared.glob(".*"))


def test_a_contender_that_is_not_installed_is_left_out_with_a_line(compared):
    assert "Without mindcv: it needs mindcv, which is not installed" in (compared / "x.md").read_text()


def test_a_worker_that_fails_says_why():
    with Worker(Entry("nobody"), Job(shape=SMALL, batch=1, mode="infer")) as worker, \
            pytest.raises(Failure, match="KeyError: 'nobody'"):
        worker.row()


def test_a_worker_whose_turn_it_is_not_stands_still():
    with Worker(Entry("sgemm-mindspore"), Job(shape=SMALL, batch=1, mode="infer")) as worker:
        worker.row()
        worker.stop()
        os.waitid(os.P_PID, worker.process.pid, os.WSTOPPED)
        worker.go_on()
        assert worker.steps(1)["seconds"] > 0
        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait()
        with pytest.raises(Failure, match="ended with -9"):
            worker.steps(1)


@pytest.mark.parametrize(("arguments", "told"), [
    (["--models", "huge"], 'no model "huge"; there are ti, ti1, s, b, cifar'),
    (["--contenders", "ours", "--python", "timm=python3"], "is no CONTENDER=PYTHON"),
    (["--python", "ours=/nowhere/python"], "there is no program /nowhere/python"),
    (["--rounds", "0"], "must be at least 1"),
])
def test_a_wrong_option_gets_one_line(arguments, told, capsys):
    assert comparing.main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_a_contender_that_would_not_fit_into_memory_is_not_started(monkeypatch):
    monkeypatch.setattr(measuring, "available_bytes", lambda: 2 * 2**30)
    measuring.room_for(2 * 2**30)
    with pytest.raises(Failure, match=r"it may need 2\.5 GiB of memory beside the others, and 2\.0 are free"):
        measuring.room_for(5 * 2**29)


@pytest.mark.parametrize("precision", ["", "-bf16"])
def test_openvino_runs_our_export(precision):
    pytest.importorskip("openvino", reason="OpenVINO is a contender: pip install openvino")
    with Worker(Entry(f"ours-openvino{precision}"), Job(shape=SMALL, batch=4, mode="infer")) as worker:
        try:
            row = worker.row()
        except Failure as failure:
            if "OpenVINO has no bfloat16 on this processor" not in str(failure):
                raise
            pytest.skip(str(failure))
        assert row.framework.startswith("OpenVINO 20") and row.versions["openvino"]
        assert row.parameters == sum(p.numel() for p in timm_model().parameters())
        assert worker.steps(1)["seconds"] > 0


def test_growth_skips_what_would_take_too_long_or_too_much_memory(monkeypatch):
    job = growing.small(4, "train")
    last = growing.Point("batch", 4, job, [row("ours", [0.1]), row("timm", [0.2])])
    assert growing.too_much(last, growing.small(8, "train")) is None
    assert growing.too_much(last, growing.small(1024, "train")) == "a step would take about 51 s"
    last.rows[0].peak_bytes = 3 * 2**30
    monkeypatch.setattr(growing, "available_bytes", lambda: 5 * 2**30)
    assert growing.too_much(last, growing.small(8, "train")) == "it may need 6 GiB of memory, and 5 are free"


def test_growth_stops_where_no_time_is_left():
    assert growing.along("depth", "infer", 0.0) == ([], ["depth 1, 2, 4, 8, 16: no time is left for it"])


def test_growth_charts_what_was_measured(monkeypatch, tmp_path):
    def measured(job: Job, entries, **_):
        assert [entry.contender for entry in entries] == ["ours", "timm"]
        seconds = job.flops / 1e11
        rows = [row(each.contender, [seconds, 2 * seconds], images=job.batch, flops=job.flops) for each in entries]
        return rows, []

    monkeypatch.setattr(growing, "measure", measured)
    growing.growth(mode="train", axes="batch,width", out=tmp_path, name="g")
    record = json.loads((tmp_path / "g.json").read_text())
    batches = [point["value"] for point in record["points"] if point["axis"] == "batch"]
    assert batches == [1, 4, 16, 64, 256] and record["skipped"] == []
    with Image.open(tmp_path / "g.png") as chart:
        chart.load()
    assert (tmp_path / "g.md").read_text().count("| batch | ours |") == 5


def recorded(tmp_path, name: str, *, rows: dict[tuple[str, str], list[Row]]):
    """A result's file, with a panel for each model and mode."""
    panels = [Panel("", Job(shape=MODELS[model].shape, batch=MODELS[model].batch, mode=mode), found, []).as_dict()
              for (model, mode), found in rows.items()]
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "panels": panels}))
    return path


@pytest.fixture
def aims(monkeypatch):
    """One of each kind, on the small model."""
    monkeypatch.setattr(targeting, "TARGETS", [
        Target("small", "train", ("ours-bf16",), 2.0, 1.25),
        Target("small", "infer", ("ours-bf16", "ours-openvino-bf16"), 2.0),
    ])
    monkeypatch.setattr(targeting, "MEMORY", [("small", "ours-bf16", targeting.BFLOAT16)])


def test_targets_are_set_against_the_better_of_theirs_in_each_result(aims, tmp_path, capsys):
    """Our 8 images/s: twice and 0.8 times timm's in one result, and half again as much in the other."""
    def trained(ours: list[float], compiled: float) -> list[Row]:
        rows = [row("ours-bf16", ours), row("timm", [2.0, 2.0, 2.0]), row("timm-bf16", [1.25, 1.25, 1.25]),
                row("timm-bf16-compiled", [compiled] * 3)]
        for each, peak in zip(rows, (300, 100, 200, 400), strict=True):
            each.peak_bytes = peak * 2**20
        return rows

    answered = [row("ours-bf16", [1.0]), row("ours-openvino-bf16", [0.5]), row("timm", [0.9])]
    first = recorded(tmp_path, "a", rows={("small", "train"): trained([1.0, 0.5, 2.0], 0.8),
                                          ("small", "infer"): answered})
    second = recorded(tmp_path, "b", rows={("small", "train"): trained([1.0, 1.0, 1.0], 1.5)})
    assert targeting.main([str(first), str(second)]) == 0
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()
             if line.startswith("| small")]
    train, infer = "small, training, batches of 4", "small, inference, batches of 4"
    assert lines == [
        [train, "MindSpore, bfloat16", "8.00<br>8.00", "2.00 (1.00 - 4.00)<br>2.00 (2.00 - 2.00)", ">= 2, met",
         "0.80 (0.40 - 1.60)<br>1.25 (1.25 - 1.25)", ">= 1.25, met in 1 of 2"],
        [infer, "the fastest: OpenVINO, bfloat16", "16.0<br>not measured", "1.80 (1.80 - 1.80)<br>not measured",
         ">= 2, missed", "", ""],
        [train, "bfloat16", "300<br>300", "200<br>200", "1.50<br>1.50", "<= 1, missed"],
    ]


def test_who_is_better_is_not_told_where_one_of_them_was_not_measured(aims, tmp_path):
    rows = {("small", "train"): [row("ours-bf16", [1.0]), row("timm-bf16", [1.0])], ("small", "infer"): [
        row("ours-bf16", [1.0]), row("timm", [1.0])]}
    result = targeting.load(recorded(tmp_path, "a", rows=rows))
    assert [targeting.speed(target, [result])[2:] for target in targeting.TARGETS] == [
        ["8.00", "not measured", ">= 2", "not measured", ">= 1.25"],
        ["not measured", "not measured", ">= 2", "", ""]]


def test_the_tables_go_between_each_pages_markers_and_nothing_else_changes(aims, tmp_path):
    result = recorded(tmp_path, "a", rows={("small", "train"): [row("ours-bf16", [1.0])]})
    pages = {word: tmp_path / f"{word}.md" for word in ("before", "从前")}
    for word, page in pages.items():
        page.write_text(f"{word}\n<!-- targets: old.json -->\nold\n<!-- end of targets -->\nafter\n")
    assert targeting.main([str(result), "--readme", *map(str, pages.values())]) == 0
    table = targeting.tables([targeting.load(result)])
    for word, page in pages.items():
        assert page.read_text() == (
            f"{word}\n<!-- targets: {result.as_posix()} -->\n{table}\n<!-- end of targets -->\nafter\n")


@pytest.mark.parametrize(("content", "told"), [
    ('{"panels": [{}]}', "is no result of benchmarks.compare (KeyError: 'job')"),
    ("", "is no result of benchmarks.compare (JSONDecodeError"),
    ('{"panels": [], "machine": {"date": "", "cores": 1, "cpu": "", "memory_gib": 1, "load": 0, "driver": ""}}',
     "has no lines \"<!-- targets: -->\""),
])
def test_what_targets_cannot_read_gets_one_line_and_leaves_the_pages(content, told, tmp_path, capsys):
    result, good, bad = tmp_path / "a.json", tmp_path / "good.md", tmp_path / "bad.md"
    result.write_text(content)
    good.write_text(markers := "<!-- targets: -->\nold\n<!-- end of targets -->")
    bad.write_text("no markers")
    assert targeting.main([str(result), "--readme", str(good), str(bad)]) == 1
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert good.read_text() == markers and bad.read_text() == "no markers" and list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_figures_of_the_readme_are_those_of_the_recorded_results(readme, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    _, (files, between), _ = around(Path(readme), "targets")
    assert between == targeting.tables([targeting.load(Path(file)) for file in files.split()])
