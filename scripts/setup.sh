#!/bin/sh
# Makes .venv with exactly the packages of uv.lock. Done before, it returns at once.
#
#   scripts/setup.sh              keep the accelerator chosen before (at first: cpu)
#   scripts/setup.sh cpu|cuda|tpu choose the JAX build
#
# PYTHON=/path/to/python3.10 names the Python to use.
set -eu
unset CDPATH VIRTUAL_ENV
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
uv_version=0.13.8
stamp=.venv/setup-stamp # what .venv was made from; written last

stop() {
    echo "setup: $1" >&2
    exit 1
}

# What .venv must have been made from: this folder (its scripts hold absolute paths) and these files.
wanted() {
    echo "$root $(cat uv.lock pyproject.toml | cksum) $accelerator"
}

is_ready() {
    [ -x .venv/bin/python ] && [ -x .venv/bin/bmg ] && [ "$(cat $stamp 2>/dev/null)" = "$(wanted)" ]
}

is_python_310() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' </dev/null >/dev/null 2>&1
}

# Launchpad links this library. A Python that is itself linked to it has it loaded already.
has_libpython() {
    "$1" -c 'import ctypes; ctypes.CDLL("libpython3.10.so.1.0")' </dev/null >/dev/null 2>&1
}

find_python() {
    unfit=
    for candidate in ${PYTHON:-python3.10 "$(pyenv prefix 3.10 2>/dev/null)/bin/python" \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10.*/bin/python \
        "$(uv python find --no-python-downloads 3.10 2>/dev/null)"}; do
        is_python_310 "$candidate" || continue
        # Its own path, not that of a pyenv shim or of the .venv that is about to be made anew.
        python=$("$candidate" -c 'import sys; print(sys.base_prefix + "/bin/python3.10")')
        has_libpython "$python" && return
        unfit=$python
    done
    [ -z "$unfit" ] || stop "$unfit cannot load libpython3.10.so.1.0, which Launchpad needs:\
 'apt-get install libpython3.10', or for pyenv 'PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force 3.10'"
    stop "no Python 3.10${PYTHON:+ at PYTHON=$PYTHON}, the newest that Launchpad runs on:\
 'apt-get install python3.10 python3.10-venv libpython3.10', or\
 'PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.10', or set PYTHON=/path/to/python3.10"
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
        stop "$python cannot make a virtual environment (see .tools/uv.log): 'apt-get install python3.10-venv'"
    .tools/uv/bin/python -m pip install --quiet "uv==$uv_version" >.tools/uv.log 2>&1 ||
        stop "uv $uv_version could not be installed from PyPI (see .tools/uv.log): check the network connection, then try again"
    uv_works "$uv" ||
        stop "uv $uv_version cannot read uv.lock: restore it with 'git checkout uv.lock pyproject.toml'"
}

install_packages() {
    quiet=--quiet
    [ ! -t 2 ] || quiet= # a person sees the progress of some 500 MB
    extra=
    [ "$accelerator" = cpu ] || extra="--extra $accelerator"
    # Half made, or made in another folder: begin anew.
    case $(cat $stamp 2>/dev/null) in "$root "*) rm $stamp ;; *) rm -rf .venv ;; esac
    # Bytecode is compiled here, once, and not by every process of every run.
    # shellcheck disable=SC2086 # both are lists of options
    UV_PROJECT_ENVIRONMENT=.venv UV_SYSTEM_CERTS=1 "$uv" sync --frozen --compile-bytecode $quiet $extra --python "$python" ||
        stop "the packages could not be installed (uv says why above): check the network connection to PyPI and the disk space (2 GB), then try again"
    .venv/bin/python -c 'import launchpad, reverb' >.tools/import.log 2>&1 ||
        stop "Launchpad or Reverb does not load: $(tail -n 1 .tools/import.log)"
}

system="$(uname -s) $(uname -m)"
[ "$system" = "Linux x86_64" ] ||
    stop "found $system, but Launchpad and Reverb have wheels for Linux x86_64 only: use such a machine or container"
accelerator=${1:-$(sed 's/.* //' $stamp 2>/dev/null || true)}
accelerator=${accelerator:-cpu}
case $accelerator in
cpu | cuda | tpu) ;;
*) stop "unknown accelerator '$accelerator': choose cpu, cuda or tpu" ;;
esac

if is_ready; then exit 0; fi
mkdir -p .tools
exec 9>.tools/lock
flock 9 # one installation at a time; those that waited find it done
if is_ready; then exit 0; fi
find_python
find_uv
echo "setup: installing the locked packages into .venv ($accelerator)" >&2
install_packages
wanted >$stamp.new
mv $stamp.new $stamp
