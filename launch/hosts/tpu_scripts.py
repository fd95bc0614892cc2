"""What is done on the workers of a Cloud TPU slice: each a line of shell, sent by gcloud's ssh.

Beside the run's own files a worker's run directory holds pod/: `lock`, held while the run goes on;
`pid` of its `bmg train`; `code`, how that ended; `console`, what it printed; `start`, which start
it was.
"""

from __future__ import annotations

import shlex

ARCHIVE = "bmg-code.tar.gz"
CODE = "bmg/code"  # on the workers, from the home folder
_PACKAGES = "make python3.10-venv libpython3.10"  # of Ubuntu; scripts/setup.sh needs them
_START_SECONDS = 120  # until `bmg train` has accepted its options and found its devices
_LEAVE_SECONDS = 90  # after SIGTERM: a last checkpoint, and the other hosts' last update


# A worker's number, of what the TPU VM knows of itself.
_NUMBER = (
    "curl -sf -H 'Metadata-Flavor: Google' "
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number"
)


def _script(workdir: str, *statements: str) -> str:
    """One line of shell that knows its worker's number `$i` and the run's `$pod`. It exits with 1
    at most: gcloud takes 255 for a lost connection, and tries again."""
    begin = [
        f"i=$({_NUMBER}) || i=?",
        'fail() { echo "worker $i: $*" >&2; exit 1; }',
        'cd || fail "no home folder"',
        f"workdir={shlex.quote(workdir)}",
        "pod=$workdir/pod",
        'going() { [ -e "$pod/lock" ] && ! flock -n "$pod/lock" true; }',
    ]
    return "; ".join([*begin, *statements])


_FREE = '! going || fail "a run goes on in $workdir; bmg pod logs shows it, bmg pod stop ends it"'


def setup(workdir: str) -> str:
    """Unpacks the code beside the environment that may be there, and installs what it needs."""
    return _script(
        workdir,
        _FREE,
        f"mkdir -p {CODE}",
        f"find {CODE} -mindepth 1 -maxdepth 1 ! -name '.venv*' ! -name .tools -exec rm -rf {{}} +",
        f'tar -xzf {ARCHIVE} -C {CODE} || fail "the code cannot be unpacked"',
        f"dpkg -s {_PACKAGES} >/dev/null 2>&1 || {{ sudo -n apt-get update && "
        f"sudo -n apt-get -o DPkg::Lock::Timeout=600 install -y {_PACKAGES}; }} >bmg/apt.log 2>&1 "
        '|| fail "apt-get: $(tail -n 1 bmg/apt.log)"',
        f"(cd {CODE} && make setup ACCELERATOR=tpu) >bmg/setup.log 2>&1 "
        '|| fail "make setup: $(grep -v ^make bmg/setup.log | tail -n 1)"',
        'echo "worker $i: set up"',
    )


def start(workdir: str, options: list[str], resume: bool, start: str) -> str:
    """Starts `bmg train` as one of several hosts, and waits until it is under way.

    Args:
      workdir: run directory on the workers.
      options: of `bmg train`.
      resume: whether the run that is there goes on.
      start: names this start, see `stop`.
    """
    train = [".venv/bin/bmg", "train", *options, *(["--resume"] if resume else [])]
    # The lock is also the launcher's own, so it is held until that has left.
    holder = (
        'exec 9>"$0/lock"; flock -n 9 || exit 1; "$@" & echo $! >"$0/pid"; '
        'wait $!; echo $? >"$0/code"'
    )
    known = '[ -e "$workdir/hosts/$i/config.json" ] || fail "no run to resume in $workdir"'
    return _script(
        workdir,
        '[ "$i" -ge 0 ] 2>/dev/null || fail "the metadata server does not say which one this is"',
        # gcloud tries again where it has lost the connection.
        f'going && [ "$(cat "$pod/start")" = {start} ] && exit 0',
        _FREE,
        'mkdir -p "$pod" && workdir=$(cd "$workdir" && pwd) || fail "cannot make $workdir"',
        "pod=$workdir/pod",
        *([f'[ "$i" = 0 ] || {known}'] if resume else []),
        f'cd {CODE} && [ -x .venv/bin/bmg ] || fail "no bmg in {CODE}"',
        'rm -f "$pod/pid" "$pod/code"',
        '[ ! -e "$pod/console" ] || mv -f "$pod/console" "$pod/console.before"',
        f'echo {start} >"$pod/start"; sleep 0.1',  # older than what the run writes
        f'PYTHONUNBUFFERED=1 setsid nohup sh -c {shlex.quote(holder)} "$pod" {shlex.join(train)} '
        '--workdir "$workdir" --hosts.cluster tpu >"$pod/console" 2>&1 </dev/null & '
        "config=$workdir/config.json",
        '[ "$i" = 0 ] || config=$workdir/hosts/$i/config.json',
        f"for t in $(seq {5 * _START_SECONDS}); do "
        '[ -s "$pod/code" ] || [ "$config" -nt "$pod/start" ] && break; sleep 0.2; done',
        '[ ! -s "$pod/code" ] || [ "$(cat "$pod/code")" = 0 ] '
        '|| fail "bmg train: $(tail -n 1 "$pod/console")"',
        'echo "worker $i: started"',
    )


def stop(workdir: str, start: str = "") -> str:
    """Ends the run with SIGTERM and waits; of one `start` alone, where it is given."""
    other = 'echo "worker $i: no run goes on"; exit 0'
    return _script(
        workdir,
        f"going || {{ {other}; }}",
        *([f'[ "$(cat "$pod/start")" = {start} ] || {{ {other}; }}'] if start else []),
        'kill -TERM "$(cat "$pod/pid")" || fail "cannot stop the run"',
        f'flock -w {_LEAVE_SECONDS} "$pod/lock" true || '
        f'fail "the run has not left within {_LEAVE_SECONDS} s"',
        'echo "worker $i: stopped"',
    )


def status(workdir: str) -> str:
    """Prints in one line how the run is."""
    return _script(
        workdir,
        'state="no run in $workdir"',
        '[ ! -e "$pod/console" ] || state=ended',
        '[ ! -s "$pod/code" ] || state="ended with exit code $(cat "$pod/code")"',
        "! going || state=running",
        'echo "worker $i: $state | $(tail -n 1 "$pod/console" 2>/dev/null)"',
    )


def console(workdir: str, lines: str) -> str:
    """Prints the console until the run has ended, then with which exit code.

    Args:
      workdir: run directory on the workers.
      lines: how many that are there already, as `tail -n` takes them.
    """
    tail = f"tail -n {lines}"
    return _script(
        workdir,
        '[ -e "$pod/console" ] || fail "no run in $workdir"',
        f'if going; then {tail} -s 0.2 --pid="$(cat "$pod/pid")" -F "$pod/console" 2>/dev/null; '
        f'else {tail} "$pod/console"; fi',
        'flock -w 30 "$pod/lock" true',
        'echo "worker $i: ended with exit code $(cat "$pod/code" 2>/dev/null || echo 1)" >&2',
    )
