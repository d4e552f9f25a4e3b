"""Shell scripts: clean, and what they see to on a node before Python starts. Nodes are folders made here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

SCRIPTS = sorted(map(str, (REPOSITORY / "scripts").glob("*.sh")))


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    found = subprocess.run([shellcheck, "--external-sources", "--source-path=SCRIPTDIR", *SCRIPTS,
                            str(REPOSITORY / ".ci" / "run")], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.fixture
def sourced(tmp_path):
    """sourced("use_cann", HOME=...) -> the environment after that function of environment.sh, an empty VENV given."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)

    def sourced(function: str, **variables: object) -> dict[str, str]:
        command = f'set -euo pipefail; . "{REPOSITORY}/scripts/environment.sh"; {function}; env -0'
        told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, env={
            "PATH": os.environ["PATH"], "VENV": str(tmp_path / "venv"), "HOME": str(tmp_path)} |
            {name: str(value) for name, value in variables.items()})
        return dict(line.split("=", 1) for line in told.stdout.split("\0") if line)
    return sourced


def cann(folder: Path) -> Path:
    """As its installer leaves it, a line that `set -u` would stop at included."""
    (folder / "lib64").mkdir(parents=True)
    (folder / "set_env.sh").write_text(f'export ASCEND_HOME_PATH="{folder}"\n'
                                       'export LD_LIBRARY_PATH="$ASCEND_HOME_PATH/lib64:$LD_LIBRARY_PATH"\n')
    return folder


def test_cann_is_found_where_its_installer_puts_it(sourced, tmp_path):
    there = cann(tmp_path / "Ascend" / "ascend-toolkit")
    after = sourced("use_cann")
    assert after["ASCEND_HOME_PATH"] == str(there)
    assert after["LD_LIBRARY_PATH"].startswith(f"{there}/lib64")


def test_cann_is_where_it_is_said_to_be_or_sourced_already(sourced, tmp_path):
    cann(tmp_path / "Ascend" / "ascend-toolkit")
    assert sourced("use_cann", CANN=cann(tmp_path / "mine"))["ASCEND_HOME_PATH"] == str(tmp_path / "mine")
    assert sourced("use_cann", ASCEND_HOME_PATH="/elsewhere")["ASCEND_HOME_PATH"] == "/elsewhere"


def test_the_packages_in_cann_are_installed_once(sourced, tmp_path):
    there, asked = cann(tmp_path / "cann"), tmp_path / "asked"
    python = tmp_path / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    python.chmod(0o755)
    for name in ("te-0.4.0-py3-none-any.whl", "hccl-0.1.0-py3-none-any.whl", "topi-0.4.0-py3-none-any.whl"):
        (there / "lib64" / name).touch()
    for _ in range(2):
        sourced("use_cann", CANN=there)
    lines = asked.read_text().splitlines()
    assert [Path(line.split()[-1]).name for line in lines] == ["te-0.4.0-py3-none-any.whl",
                                                               "hccl-0.1.0-py3-none-any.whl"]
    assert all(line.startswith("-m pip install") for line in lines)


def cuda(venv: Path, version: str) -> Path:
    """CUDA's libraries as pip installs them."""
    packages = venv / "lib" / "python3.11" / "site-packages"
    for name in ("cublas", "cudnn"):
        (packages / "nvidia" / name / "lib").mkdir(parents=True)
    (packages / f"nvidia_cuda_runtime_cu{version.split('.')[0]}-{version}.dist-info").mkdir()
    return packages / "nvidia"


def test_cuda_11_of_pip_is_found_by_mindspore(sourced, tmp_path):
    nvidia = cuda(tmp_path / "venv", "11.8.89")
    after = sourced("use_cuda", LD_LIBRARY_PATH="/mine")
    assert after["LD_LIBRARY_PATH"].split(":") == [f"{nvidia}/cublas/lib", f"{nvidia}/cudnn/lib", "/mine"]
    told = subprocess.run([f"{after['CUDA_HOME']}/bin/nvcc", "--version"], capture_output=True, text=True, check=True)
    assert "release 11.8, V11.8.89" in told.stdout
    assert sourced("use_cuda", CUDA_HOME="/usr/local/cuda-11.6")["CUDA_HOME"] == "/usr/local/cuda-11.6"


@pytest.mark.parametrize("version", ["12.4.127", None])
def test_another_cuda_or_none_changes_nothing(sourced, tmp_path, version):
    if version:
        cuda(tmp_path / "venv", version)
    after = sourced("use_cuda")
    assert "CUDA_HOME" not in after and "LD_LIBRARY_PATH" not in after
