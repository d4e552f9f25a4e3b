# Sourced by the scripts beside it: makes sure of a virtual environment with ms-vit in it, and goes to the repository.
#   VENV       folder of the environment (default: .venv in the repository)
#   PYTHON     the Python that makes it (default: the first of 3.11, 3.12, 3.10 found)
#   MINDSPORE  a MindSpore version, where a node's driver asks for one, e.g. MINDSPORE=2.7.0

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

# install EXTRAS: an editable install, done again only when setup.py has changed since.
install() {
    local stamp="$VENV/.ms-vit" wanted python
    wanted="$(cksum < "$root/setup.py") ${MINDSPORE:-}"
    # What was installed with extras serves without them, too.
    if [ -f "$stamp" ] && grep -qxF -e "$wanted $1" -e "$wanted ${1:-[test]}" "$stamp"; then
        return
    fi
    python="$(find_python)" || return 1
    echo "== installing into $VENV (a few minutes the first time)" >&2
    [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
        -e "$root$1" ${MINDSPORE:+"mindspore==$MINDSPORE"}
    echo "$wanted $1" >> "$stamp"
}
