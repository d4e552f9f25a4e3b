"""What TensorBoard shows is what metrics.jsonl tells, however often a run was stopped or went back."""

import errno
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from ms_vit.runs.checkpoints import TrainState
from ms_vit.runs.events import OF_EPOCHS, OF_STEPS, Events
from ms_vit.runs.metrics import MetricsFile


def events_of(file: Path) -> list[Event]:
    """TFRecords: 8 bytes of length, 4 of its checksum, the event, 4 of its checksum."""
    content, found, at = file.read_bytes(), [], 0
    while at < len(content):
        length, = struct.unpack_from("<Q", content, at)
        found.append(Event.FromString(content[at + 12:at + 12 + length]))
        at += length + 16
    return found


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> its (step, value), as TensorBoard goes through files by name: a start drops all from its step on."""
    points: dict[str, list] = {}
    for file in sorted(folder.glob("*tfevents*")):
        for event in events_of(file):
            if event.session_log.status == SessionLog.START:
                points = {tag: [point for point in kept if point[0] < event.step] for tag, kept in points.items()}
            for value in event.summary.value:
                points.setdefault(value.tag, []).append((event.step, value.simple_value))
    return points


def told(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The same by metrics.jsonl, rounded to float32 as events are."""
    points: dict[str, list] = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for key, tag in (OF_STEPS if "loss" in line else OF_EPOCHS).items():
            if line.get(key) is not None:
                points.setdefault(tag, []).append((line["step"], float(np.float32(line[key]))))
    return points


def opened(run: Path) -> MetricsFile:
    run.mkdir(exist_ok=True)
    return MetricsFile(run / "metrics.jsonl", Events(run / "events"))


def write(metrics: MetricsFile, steps: range, *, epoch: int, noise: float = 0.0) -> None:
    for step in steps:
        metrics.write(step=step, epoch=epoch, loss=1 / step + noise, lr=0.1, grad_norm=1.0, images_per_second=9.5,
                      data_wait=0.0)
    if steps.stop % 6 == 1:
        metrics.write(step=steps[-1], epoch=epoch, train_loss=0.1, val_loss=0.3 + noise, val_top1=0.5, val_top5=0.9,
                      images_per_second=1.0, data_wait=1.0)


@pytest.mark.parametrize(("step", "epoch"), [(0, 0), (4, 0), (6, 0), (6, 1), (8, 1)])
@pytest.mark.parametrize("killed", [True, False])       # with what wasn't on the disk yet lost, or going back by itself
def test_a_run_that_goes_on_from_a_checkpoint_shows_each_step_once(killed, step, epoch, tmp_path):
    """Step 6 ends an epoch; a checkpoint there may be older than what validation came to, or not."""
    metrics = opened(tmp_path / "run")
    metrics.rewind(TrainState())
    write(metrics, range(1, 7), epoch=1)
    write(metrics, range(7, 9), epoch=2)
    metrics.flush()         # of a checkpoint, which may be damaged now, so that an older one is taken
    write(metrics, range(9, 11), epoch=2)
    if killed:
        events, = (tmp_path / "run/events").iterdir()
        on_disk = events.read_bytes()
        metrics.close()
        assert len(events.read_bytes()) > len(on_disk)
        events.write_bytes(on_disk)
        metrics = opened(tmp_path / "run")
    metrics.rewind(TrainState(step=step, epoch=epoch))
    if epoch == 0:
        write(metrics, range(step + 1, 7), epoch=1, noise=0.5) if step < 6 else \
            metrics.write(step=6, epoch=1, val_loss=0.8, val_top1=0.5, val_top5=0.9)
    write(metrics, range(max(step, 6) + 1, 13), epoch=2, noise=0.5)
    metrics.close()
    seen = shown(tmp_path / "run/events")
    assert seen == told(tmp_path / "run")
    assert [step for step, _ in seen["train/loss"]] == list(range(1, 13))
    assert [step for step, _ in seen["val/loss"]] == [6, 12] and len(seen) == len(OF_STEPS | OF_EPOCHS)
    assert len(list((tmp_path / "run/events").iterdir())) == 1 + killed


def test_what_is_no_number_is_left_out_and_the_recipe_and_pictures_are_there(tmp_path):
    events = Events(tmp_path / "events")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 5), np.uint8)
    events.begin(TrainState(step=7), "train:\n  epochs: 3\n", [Image.fromarray(each[0]) for each in pixels])
    events.write(step=8, loss=math.nan, grad_norm=None, lr=0.5)
    events.write(step=8, final="x", final_top1=0.5)
    events.close()
    file, = (tmp_path / "events").iterdir()
    text, image, rate = (event.summary.value[0] for event in events_of(file) if event.HasField("summary"))
    assert text.tag == "recipe/text_summary" and text.metadata.plugin_data.plugin_name == "text"
    assert text.tensor.string_val == [b"    train:\n      epochs: 3\n"]        # indented: as it is, in Markdown
    assert (rate.tag, rate.simple_value) == ("train/lr", 0.5)
    assert image.tag == "train/images"
    (tmp_path / "image.png").write_bytes(image.image.encoded_image_string)
    with Image.open(tmp_path / "image.png") as grid:
        assert np.array_equal(np.asarray(grid)[:, :, 0], np.concatenate(list(pixels[:, 0]), axis=1))


def test_events_that_cannot_be_written_are_told_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    events = Events(tmp_path / "file")
    for step in (1, 2):
        events.write(step=step, loss=1.0)
    events.close()
    assert capsys.readouterr().err == f"can't write {tmp_path / 'file'} (file exists); training goes on without\n"

    events = Events(tmp_path / "events")
    monkeypatch.setattr(events.library.EventsWriter, "flush", full)
    for step in range(1000):
        events.write(step=step, loss=1.0)
    events.close()
    assert capsys.readouterr().err == (f"can't write {tmp_path / 'events'} (no space left on device); training goes on "
                                       "without\n")


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_without_the_library_that_is_told_ahead_of_all_else(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    code, _, err = run("train", "--recipe", "digits", "--run", tmp_path / "run", "--tensorboard")
    assert code == 2 and not (tmp_path / "run").exists()
    assert err == 'ms-vit: events for TensorBoard need tensorboardX; run: pip install "ms-vit[tensorboard]"\n'
