"""Choosing a device, and what a machine without one, or with one that doesn't work, is told."""

import mindspore as ms
import pytest

from ms_vit import cli, device
from ms_vit.doctor import attempt
from ms_vit.errors import UsageError

REFUSAL = """Device load error message:
Load dynamic library: libmindspore_ascend.so.2 failed. libge_runner.so: cannot open shared object file
Load dynamic library: libmindspore_gpu.so.11.6 failed. libcudnn.so.8: cannot open shared object file
"""


@pytest.mark.parametrize(("asked", "meant"), [
    ("CPU", ("CPU", None)), ("ascend", ("Ascend", None)), ("Ascend:3", ("Ascend", 3)), ("gpu:1", ("GPU", 1))])
def test_a_device_and_which_card(asked, meant):
    assert device.parse(asked) == meant


@pytest.mark.parametrize(("asked", "told"), [
    ("tpu", 'no device "tpu"; there are CPU, GPU, Ascend'),
    ("Ascend:x", 'no device "Ascend:x"; which card is a number from 0, as in Ascend:0'),
    ("GPU:", 'no device "GPU:"; which card'), ("GPU:-1", "which card")])
def test_what_is_no_device_is_told(asked, told):
    with pytest.raises(UsageError, match=told):
        device.use_device(asked)


def test_the_card_is_passed_on(monkeypatch):
    asked = []
    monkeypatch.setattr(ms, "set_device", lambda *which: asked.append(which))
    monkeypatch.setattr(ms, "set_deterministic", asked.append)
    assert device.use_device("Ascend:3", deterministic=True) == "Ascend"
    assert device.use_device("GPU") == "GPU"
    assert device.use_device("CPU", deterministic=True) == "CPU"        # which repeats its bits in any case
    assert asked == [("Ascend", 3), True, ("GPU",)]         # the CPU is what is in use


def test_a_device_that_is_not_there_is_told_with_mindspores_reason(monkeypatch):
    def refuse(*which: object) -> None:
        raise RuntimeError(REFUSAL)

    monkeypatch.setattr(ms, "set_device", refuse)
    ascend = r"no Ascend:1 here: libmindspore_ascend\.so\.2: libge_runner\.so: cannot .* set_env\.sh .* --device out"
    with pytest.raises(UsageError, match=ascend):
        device.use_device("Ascend:1")
    with pytest.raises(UsageError, match=r"no GPU here: libmindspore_gpu\.so\.11\.6: libcudnn\.so\.8: .* CUDA 11"):
        device.use_device("GPU")


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A machine with the driver of an Ascend, whose plugin doesn't load."""
    (tmp_path / "davinci0").touch()
    monkeypatch.setitem(device.CARDS, "Ascend", f"{tmp_path}/davinci[0-9]*")
    return tmp_path / "davinci0"


def test_a_card_that_is_not_used_is_told(card, capsys):
    assert device.use_device() == "CPU"
    told = capsys.readouterr().err
    assert f"{card} is there, and MindSpore works on the CPU: libmindspore_ascend" in told
    assert "set_env.sh" in told
    assert device.use_device("CPU") == "CPU"        # asked for
    assert not capsys.readouterr().err
    assert ms.get_context("device_target") == "CPU"


def test_the_toolkit_is_told_by_its_files(monkeypatch, tmp_path):
    for name in ("ASCEND_HOME_PATH", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert device.toolkit() == ""
    told = tmp_path / "x86_64-linux" / "ascend_toolkit_install.info"
    told.parent.mkdir()
    told.write_text("package_name=Ascend-cann-toolkit\nversion=8.1.RC1\ninnerversion=V100\n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    assert device.toolkit() == "CANN 8.1.RC1"
    monkeypatch.delenv("ASCEND_HOME_PATH")
    (tmp_path / "version.json").write_text('{"cuda" : {"name" : "CUDA SDK", "version" : "11.8.20220929"}}')
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert device.toolkit() == "CUDA 11.8.20220929"


def test_the_doctor_finds_this_machine_fit(run):
    code, health, told = run("doctor", "--device", "CPU")
    assert (code, health["device"], health["remedies"]) == (0, "CPU", {})
    assert [line.split()[0] for line in told.splitlines()] == list(health["found"])
    assert {"Python", "MindSpore", "NumPy", "Ascend", "GPU", "cores", "compiler", "precision", "product",
            "training"} <= health["found"].keys()
    assert all(line.startswith("  ") for line in told.splitlines())


def test_the_doctor_tells_what_to_do_about_a_card(card, capsys):
    assert cli.main(["doctor"]) == 1
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("! "))
    assert "Ascend" in line and str(card) in line and "set_env.sh" in line


def test_the_doctor_tells_of_a_device_that_is_refused(capsys):
    assert cli.main(["doctor", "--device", "tpu"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith('! device    refused; no device "tpu"')


def test_what_fails_is_a_finding():
    def fail():
        raise RuntimeError("aclrtMalloc failed\nsecond line")

    assert attempt(fail) == ("failed", "RuntimeError: aclrtMalloc failed second line")
