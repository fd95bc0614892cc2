#!/bin/sh
# Makes .venv with exactly the packages of uv.lock. Done before, it returns at once.
#
#   scripts/setup.sh              keep the accelerator chosen before (at first: cpu)
#   scripts/setup.sh cpu|cuda|tpu choose the JAX build
#
# On Linux x86-64 with Python 3.10 these include Launchpad and Reverb. Elsewhere they do not, and are the
# newest, on the newest Python from 3.11 to 3.13.
#
# PYTHON=/path/to/python names the Python to use; PYTHON=newest is the newest from 3.11 to 3.13.
# VENV=.venv-NAME is made instead of .venv.
#
# Exit status: 0 done; 3 no Python to use; 1 anything else.
set -eu
unset CDPATH VIRTUAL_ENV
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
uv_version=0.13.8
venv=${VENV:-.venv}
stamp=$venv/setup-stamp # what the environment was made from; written last
named=${PYTHON:-}

stop() {
    echo "setup: $1" >&2
    exit "${2:-1}"
}

# What it must have been made from: this folder (its scripts hold absolute paths) and these files.
wanted() {
    echo "$root $(cat uv.lock pyproject.toml setup.py | cksum) $accelerator"
}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' </dev/null 2>/dev/null
}

is_ready() {
    [ -x "$venv/bin/python" ] && [ -x "$venv/bin/bmg" ] || return 1
    [ "$(cat "$stamp" 2>/dev/null)" = "$(wanted)" ] || return 1
    case $named in
    '' | newest) ;;
    *) [ "$(version_of "$named")" = "$(version_of "$venv/bin/python")" ] ;;
    esac
}

# Launchpad links this library. A Python that is itself linked to it has it loaded already.
has_libpython() {
    "$1" -c 'import ctypes; ctypes.CDLL("libpython3.10.so.1.0")' </dev/null >/dev/null 2>&1
}

# Sets `python` to one of version $1: the one at $path, or any where that is empty.
find_version() {
    unfit=
    for candidate in ${path:-python$1 "$(pyenv prefix "$1" 2>/dev/null)/bin/python" \
        "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python \
        "$(uv python find --no-python-downloads "$1" 2>/dev/null)"}; do
        [ "$(version_of "$candidate")" = "$1" ] || continue
        # Its own path, not that of a pyenv shim or of the environment that is about to be made anew.
        python=$("$candidate" -c "import sys; print(sys.base_prefix + '/bin/python$1')")
        if [ "$1" != 3.10 ] || has_libpython "$python"; then return; fi
        unfit=$python
    done
    [ -z "$unfit" ] || stop "$unfit cannot load libpython3.10.so.1.0, which Launchpad needs:\
 'apt-get install libpython3.10', or for pyenv 'PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force 3.10'"
    return 1
}

find_python() {
    path=$named
    [ "$named" != newest ] || path=
    if [ "$system" = "Linux x86_64" ] && [ "$named" != newest ]; then
        if find_version 3.10; then return; fi
        range='3.10 to 3.13'
        remedy="'apt-get install python3.10 python3.10-venv libpython3.10', or\
 'PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.10'"
    else
        range='3.11 to 3.13'
        remedy="install Python 3.13, for instance with 'pyenv install 3.13'"
    fi
    for newer in 3.13 3.12 3.11; do
        if find_version $newer; then return; fi
    done
    stop "no Python $range${path:+ at PYTHON=$path}: $remedy, or set PYTHON=/path/to/python" 3
}

# Whether this uv runs in this folder (a pyenv shim may refuse) and can read this lock.
uv_works() {
    "$1" export --frozen --offline --quiet --python "$python" </dev/null >/dev/null 2>&1
}

find_uv() {
    for uv in uv .tools/uv/bin/uv; do
        uv_works "$uv" && return
    done
    rm -rf .tools/uv
    "$python" -m venv .tools/uv >.tools/uv.log 2>&1 ||
        stop "$python cannot make a virtual environment (see .tools/uv.log): 'apt-get install python$version-venv'"
    .tools/uv/bin/python -m pip install --quiet "uv==$uv_version" >.tools/uv.log 2>&1 ||
        stop "uv $uv_version could not be installed from PyPI (see .tools/uv.log): check the network connection, then try again"
    uv_works "$uv" ||
        stop "uv $uv_version cannot read uv.lock: restore it with 'git checkout uv.lock pyproject.toml'"
}

install_packages() {
    quiet=--quiet
    [ ! -t 2 ] || quiet= # a person sees the progress of some 500 MB
    extra='--extra all'
    [ "$accelerator" = cpu ] || extra="$extra --extra $accelerator"
    # Half made, or made in another folder: begin anew.
    case $(cat "$stamp" 2>/dev/null) in "$root "*) rm "$stamp" ;; *) rm -rf "$venv" ;; esac
    # Bytecode is compiled here, once, and not by every process of every run.
    # shellcheck disable=SC2086 # both are lists of options
    UV_PROJECT_ENVIRONMENT=$venv UV_SYSTEM_CERTS=1 "$uv" sync --frozen --compile-bytecode $quiet $extra --python "$python" ||
        stop "the packages could not be installed (uv says why above): check the network connection to PyPI and the disk space (2 GB), then try again"
    "$venv/bin/python" -c "import $core" >.tools/import.log 2>&1 ||
        stop "one of $core does not load: $(tail -n 1 .tools/import.log)"
}

system="$(uname -s) $(uname -m)"
case $system in
"Linux x86_64" | "Linux aarch64" | "Darwin arm64") ;;
*) stop "found $system, but JAX has wheels for Linux x86_64, Linux aarch64 and Darwin arm64 only: use such a machine or container" ;;
esac
case $venv in
.venv | .venv-*) ;;
*) stop "VENV=$venv is not made here (it would be emptied): choose .venv or .venv-NAME" ;;
esac
accelerator=${1:-$(sed 's/.* //' "$stamp" 2>/dev/null || true)}
accelerator=${accelerator:-cpu}
case "$accelerator $system" in
"cpu "* | "cuda Linux "* | "tpu Linux x86_64") ;;
"cuda "* | "tpu "*) stop "JAX has no $accelerator build for $system: choose cpu" ;;
*) stop "unknown accelerator '$accelerator': choose cpu, cuda or tpu" ;;
esac

if is_ready; then exit 0; fi
find_python
version=$(version_of "$python")
mkdir -p .tools
exec 9>.tools/lock
# One installation at a time; those that waited find it done. Not flock(1), which macOS lacks: this lock
# too is the open file's, and stays with this shell.
"$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
if is_ready; then exit 0; fi
find_uv
core='jax, haiku, ale_py'
if [ "$version" = 3.10 ]; then
    core='launchpad, reverb'
else
    echo "setup: Launchpad and Reverb have no wheels for Python $version on $system:\
 training runs as threads of one process (bmg train --runtime local-threads)" >&2
fi
echo "setup: installing the locked packages into $venv ($accelerator)" >&2
install_packages
wanted >"$stamp.new"
mv "$stamp.new" "$stamp"
