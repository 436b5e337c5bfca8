#!/usr/bin/env bash
# setup.sh VENV REQUIREMENT...: make the virtual environment VENV and install into it what constraints.txt pins.
# A call that fails is continued by the next one; the stamp VENV/.installed appears only when everything is in place.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
shift

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.14; do
        if is_recent "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "mlops_nb needs Python 3.11 or later; found: $(python3 --version 2>&1 || true)" >&2
    echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12 ..." >&2
    exit 1
}

if ! is_recent "$venv/bin/python"; then
    python=$(find_python)
    echo "Creating $venv with $("$python" --version)"
    if ! "$python" -m venv --clear "$venv"; then
        echo "\"$python -m venv\" failed; on Debian and Ubuntu the package python3-venv provides it: apt-get install python3-venv" >&2
        exit 1
    fi
fi
echo "Installing the pinned packages into $venv (some minutes the first time)"
"$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt "$@"
"$venv/bin/python" -m compileall -q mlops_nb  # a shell with PYTHONDONTWRITEBYTECODE would compile at every start
"$venv/bin/jupyter" kernelspec install --sys-prefix --name mlops-nb mlops_nb/kernelspec 2>/dev/null  # an editable install leaves data files out
if [ "$venv" = .venv ]; then
    "$venv/bin/python" tools/install_hooks.py
fi
touch "$venv/.installed"
