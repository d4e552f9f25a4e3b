# shellcheck shell=bash
# Sourced by the scripts beside it: makes sure of a virtual environment with ms-vit in it, and of what an accelerator needs
# before Python starts, and goes to the repository.
#   VENV       folder of the environment (default: .venv in the repository)
#   PYTHON     the Python that makes it (default: the first of 3.11, 3.12, 3.10 found)
#   MINDSPORE  a MindSpore version, where a node's driver asks for one, e.g. MINDSPORE=2.7.0
#   CANN       CANN's folder with set_env.sh in it (default: where its installer puts it)

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$root/.venv${MINDSPORE:+-$MINDSPORE}}"

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.10 python3 python}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "ms-vit: Python 3.10, 3.11 or 3.12 is needed; install one, or name it: PYTHON=/path/to/python3.11 bash $0" >&2
    return 1
}

# install EXTRAS: an editable install, done again only when setup.py has changed since; then what a card needs.
install() {
    local stamp="$VENV/.ms-vit" wanted python
    wanted="$(cksum < "$root/setup.py") ${MINDSPORE:-}"
    # What was installed with extras serves without them, too.
    if ! { [ -f "$stamp" ] && grep -qxF -e "$wanted $1" -e "$wanted ${1:-[test]}" "$stamp"; }; then
        python="$(find_python)" || return 1
        echo "== installing into $VENV (a few minutes the first time)" >&2
        [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV"
        # Python compiles what it imports; pip would compile all of it, for three quarters of a minute.
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
            -e "$root$1" ${MINDSPORE:+"mindspore==$MINDSPORE"}
        echo "$wanted $1" >> "$stamp"
    fi
    use_cann
    use_cuda
}

# Where CANN is installed: its environment, and the Python packages that lie in it.
use_cann() {
    local folder wheel
    if [ -z "${ASCEND_HOME_PATH:-}" ]; then
        for folder in ${CANN:+"$CANN"} {/usr/local,"$HOME"}/Ascend/{cann,ascend-toolkit,ascend-toolkit/latest,nnae}; do
            if [ -f "$folder/set_env.sh" ]; then
                set +u      # it reads what may not be set
                # shellcheck disable=SC1091
                . "$folder/set_env.sh"
                set -u
                break
            fi
        done
    fi
    for wheel in "${ASCEND_HOME_PATH:-/nowhere}"/lib64/{te,hccl}-*.whl; do
        if [ -f "$wheel" ] && ! grep -qxF "$wheel" "$VENV/.cann" 2>/dev/null; then
            "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheel"
            echo "$wheel" >> "$VENV/.cann"
        fi
    done
}

# Where CUDA 11's libraries were installed by pip (nvidia-cudnn-cu11 and others): how MindSpore's plugin finds them. It
# asks nvcc for its release, and for nothing else; pip has none, so what answers is made here.
use_cuda() {
    local folders release
    folders="$(printf '%s:' "$VENV"/lib/python3*/site-packages/nvidia/*/lib)"
    release="$(printf '%s\n' "$VENV"/lib/python3*/site-packages/nvidia_cuda_runtime_cu11-*.dist-info)"
    release="${release##*cu11-}"
    case "$release" in 11.*) ;; *) return 0 ;; esac
    export LD_LIBRARY_PATH="${folders%:}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    if [ -z "${CUDA_HOME:-}" ]; then
        export CUDA_HOME="$VENV/cuda"
        mkdir -p "$CUDA_HOME/bin"
        printf '#!/bin/sh\necho "Cuda compilation tools, release %s, V%s"\n' \
            "$(echo "$release" | cut -d. -f1,2)" "${release%.dist-info}" > "$CUDA_HOME/bin/nvcc"
        chmod +x "$CUDA_HOME/bin/nvcc"
    fi
}
