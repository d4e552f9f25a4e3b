"""The model of a step's time over many devices, and the page that it fills."""

import shutil
from dataclasses import replace

import pytest

from benchmarks import scale
from benchmarks.scale import ATLAS, B16, Machine, all_reduce, step
from ms_vit.models.vit import create_model


def test_the_page_tells_what_the_model_comes_to(tmp_path):
    page = tmp_path / "scale.md"
    shutil.copy(scale.PAGE, page)
    scale.scale(page)
    assert page.read_text() == scale.PAGE.read_text()


def test_parameters_are_those_of_the_network():
    counted = sum(parameter.size for parameter in create_model("vit_base_patch16_224").get_parameters())
    assert counted == B16.parameters


@pytest.mark.parametrize(("devices", "seconds"), [
    (1, 0.0),
    (2, 2 * (0.5 * 1e9 / 10e9 + 1e-3)),                 # two hops of a half
    (4, 2 * 3 * (0.25 * 1e9 / 10e9 + 1e-3)),
    (8, 2 * 3 * (0.25 * 1e9 / 10e9 + 1e-3) + 2 * (0.5 * 1e9 / 1e9 + 1e-3)),        # and between two nodes
])
def test_a_gigabyte_is_summed_in_rings(devices, seconds):
    machine = Machine(cards=4, link=10e9, wire=1e9, latency=1e-3)
    assert all_reduce(1e9, devices, machine) == pytest.approx(seconds)


@pytest.mark.parametrize(("changes", "bound"), [
    ({}, "compute"), ({"wire": 1e8}, "exchange"), ({"decoded": 100}, "decoding"), ({"read": 1e6}, "reading")])
def test_what_is_scarce_bounds_a_step(changes, bound):
    taken = step(B16, 64, replace(ATLAS, **changes), batch=128, image_bytes=110_000)
    assert taken.bound == bound
    assert taken.seconds == max(taken.computed + taken.exchanged, taken.decoded, taken.read)
    assert taken.rate == 64 * 128 / taken.seconds
