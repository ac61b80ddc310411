#!/bin/sh
# Makes the environment that every other target uses: packaging/setup.sh FOLDER (called by `make setup`).
#
# A folder that is absent or empty becomes a virtual environment with exactly what requirements.txt pins; one that was left unfinished (killed,
# no space, no network) is built anew. An environment of your own (conda, a virtual environment with another PyTorch) keeps what it has: only
# what is missing is added. A Detectron2 that is there is used as it is.
set -eu

venv=$1
py=$venv/bin/python
made=$venv/.made-by-setup # this script created the environment
unfinished=$venv/.unfinished # ... and has not finished it

say() { printf 'setup: %s\n' "$*" >&2; }
stop() {
    say "$*"
    exit 2
}

recent_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
        if recent_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    stop "no Python 3.11 or later found; install one, or name it: make setup PYTHON=/path/to/python3.11"
}

# 1. An environment with Python and pip.
if [ -e "$made" ] && ! recent_enough "$py"; then
    : >"$unfinished" # its Python was moved or removed
fi
if [ -e "$unfinished" ]; then
    say "$venv was left unfinished: building it anew"
    # The marker goes last, so that a kill here is repaired as well.
    find "$venv" -mindepth 1 -maxdepth 1 ! -name .unfinished -exec rm -rf {} +
fi
if [ ! -e "$venv" ] || [ -e "$unfinished" ] || [ -z "$(ls -A "$venv")" ]; then
    python=$(find_python)
    say "creating $venv with $("$python" --version)"
    mkdir -p "$venv"
    : >"$unfinished"
    "$python" -m venv "$venv" || stop "$python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"
    : >"$made"
fi
[ -x "$py" ] || stop "$venv is no Python environment; remove it, or name another: make setup VENV=<folder>"
recent_enough "$py" || stop "$venv has $("$py" --version 2>&1), Python 3.11 or later is needed; name another: make setup VENV=<folder>"
"$py" -m pip --version >/dev/null 2>&1 || "$py" -m ensurepip >/dev/null || stop "$venv has no pip and none can be added; install pip into it"
if [ -e "$made" ]; then
    : >"$unfinished"
    # Once: where no bytecode may be written later (PYTHONDONTWRITEBYTECODE, a read-only folder), every command would compile PyTorch's sources
    # again, 4 s of a start.
    export UV_COMPILE_BYTECODE=1
fi

# 2. uv, at the pinned version; it installs the rest in a fraction of pip's time. It does not read pip's settings, so they are passed on.
pin=$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.txt)
if [ "$("$py" -m uv --version 2>/dev/null | cut -d' ' -f2)" != "${pin#uv==}" ]; then
    awk '/^[^ #]/ { on = /^uv==/ } on' requirements.txt >"$venv/.uv.txt"
    "$py" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$venv/.uv.txt"
fi
pip_setting() { "$py" -m pip config get "global.$1" 2>/dev/null || true; }
index=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-${PIP_INDEX_URL:-$(pip_setting index-url)}}}
if [ -n "$index" ]; then
    export UV_DEFAULT_INDEX="$index"
fi
certificates=${SSL_CERT_FILE:-${PIP_CERT:-$(pip_setting cert)}}
if [ -n "$certificates" ]; then
    export SSL_CERT_FILE="$certificates"
fi
# Source archives (fvcore, iopath, antlr4) are built with the pinned setuptools, so that a later one cannot break them.
install() { "$py" -m uv pip install --python "$py" --build-constraints requirements.txt "$@"; }

# 3. The packages, and the project itself as an editable install.
if [ -e "$made" ]; then
    say "installing the pinned packages (PyTorch with CUDA is about 3 GB, once)"
    install --quiet --require-hashes -r requirements.txt
    install --quiet --no-deps --no-build-isolation --editable .
else
    # Not quiet: whose environment it is should see what was added.
    say "$venv was there already: adding what is missing, replacing nothing that fits"
    install --editable '.[dev]'
fi

# 4. Detectron2: ours unless there is another.
state=$("$py" - <<'PYTHON'
import importlib.metadata
import importlib.util
import tomllib

ours = tomllib.load(open("packaging/detectron2/pyproject.toml", "rb"))["project"]["version"]
try:
    version = importlib.metadata.version("detectron2")
except importlib.metadata.PackageNotFoundError:
    version = None
spec = importlib.util.find_spec("detectron2")
if spec is None or (version != ours and "+a59f0563" in (version or "")):
    print("install")
else:
    print("ours" if version == ours else f"found {spec.origin}")
PYTHON
)
case $state in
install) install --quiet packaging/detectron2 ;;
found*) say "using the Detectron2 that is there: ${state#found }" ;;
esac
rm -f "$unfinished"
say "done: $venv"
