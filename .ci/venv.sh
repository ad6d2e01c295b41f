#!/usr/bin/env bash
# Make or complete a virtual environment:  .ci/venv.sh FOLDER EXTRAS
# Works where python3 lacks its venv module, when the system's packages may be installed; else it says what to install.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1 extras=$2
python=${PYTHON:-python3}

command -v "$python" >/dev/null || .ci/system-packages.sh "Python" python3 python3-venv
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "error: $("$python" --version 2>&1) is too old: Python 3.10 or newer is needed; name one with  make PYTHON=python3.12 …" >&2
    exit 1
}
if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "Making $folder with $("$python" --version)"
    if ! "$python" -m venv --clear "$folder" >/dev/null 2>&1; then
        .ci/system-packages.sh "Python's venv module" python3-venv
        "$python" -m venv --clear "$folder"
    fi
fi
pip() { "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-warn-script-location "$@"; }

case ",$extras," in
*,all,* | *,train,*)
    # By itself and pinned: as a mere dependency torch may bring gigabytes of CUDA libraries that a plain CPU build does not need.
    echo "Installing torch"
    pip torch==2.13.0
    ;;
esac
echo "Installing pdmu[$extras] into $folder"
pip --editable ".[$extras]"
touch "$folder/.ready"
