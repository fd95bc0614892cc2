"""A run on a TPU slice: every shell command is executed, on workers that are folders here.

main ── fake gcloud ──► bash in tmp/workers/0, tmp/workers/1, with fake curl, make and dpkg
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from bmg.launch import cli
from bmg.launch.hosts import pod, tpu, tpu_options, tpu_scripts
from tests.launch import commands
from tests.tables import named
from tests.waiting import DEADLINE, Call, eventually

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "flock", "git", "setsid"))), reason="workers are Linux"
)

# Which step fails is said by files in the folder of all: fail-VERB holds what gcloud says, and
# fail-WORD a word of the ssh command that fails.
GCLOUD = """#!{python} -SE
import json, os, pathlib, shutil, subprocess, sys
top = pathlib.Path({top!r})
arguments = sys.argv[1:]
with open(top / "calls", "a") as file:
    file.write(json.dumps(["gcloud", *arguments]) + "\\n")
verb, rest = arguments[3], arguments[4:]
options = dict(x[2:].partition("=")[::2] for x in rest if x.startswith("--"))
names = [x for x in rest if not x.startswith("--")]
failing = top / f"fail-{{verb}}"
if failing.exists():
    sys.exit(failing.read_text())
homes = sorted((top / "workers").iterdir())
if options.get("worker", "all") != "all":
    homes = [top / "workers" / options["worker"]]
if verb == "ssh":
    print("SSH: Attempting to connect to worker 0...", file=sys.stderr)
    there = [
        subprocess.Popen(
            ["bash", "-c", options["command"]], env={{**os.environ, "HOME": str(home)}}
        )
        for home in homes
    ]
    codes = [process.wait() for process in there]
    for home, code in zip(homes, codes):
        if code:
            print(f"##### Command execution on worker {{home.name}} failed with exit status "
                  f"{{code}}. Continuing.", file=sys.stderr)
    sys.exit(max(codes))
elif verb == "scp":
    source, target = names
    for home in homes:
        if source.startswith("bmg:"):
            script = f"cp -r {{home}}/{{source[4:]}} {{target}}"
        else:
            script = f"cp {{source}} {{home}}/{{target[4:]}}"
        subprocess.run(["bash", "-c", script], check=True)
elif verb == "describe":
    print("bmg\\tv4-16\\tREADY\\tHEALTHY")
"""

CURL = """#!/bin/bash
[[ "$*" == *"Metadata-Flavor: Google"* ]] || exit 22
case "${@: -1}" in
http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number)
    [ ! -e "$HOME/no-number" ] && echo -n "${HOME##*/}" ;;
*) exit 22 ;;
esac
"""

MAKE = """#!/bin/bash
echo "$@" >"$HOME/made"
if [ -e "$HOME/no-python" ]; then echo "setup: no Python" >&2; echo "make: Error 1"; exit 2; fi
mkdir -p .venv/bin && cp TOP/bmg .venv/bin/bmg
"""

# A run that ends when TOP/finish is there, with a checkpoint, or when the test is long over.
BMG = """#!/bin/bash
printf '%s\\n' "$*" >>"$HOME/arguments"
if [ -e "$HOME/refuses" ]; then echo "bmg: batch cannot be shared" >&2; exit 2; fi
while [ $# -gt 0 ]; do
    [ "$1" = --workdir ] && workdir=$2
    shift
done
index=${HOME##*/}
[ "$index" = 0 ] || workdir=$workdir/hosts/$index
mkdir -p "$workdir/checkpoints" && echo "{}" >"$workdir/config.json"
trap 'echo of-term >"$workdir/checkpoints/last"; echo stopped; exit 130' TERM
echo "host $index goes"
until [ -e TOP/finish ] || [ $SECONDS -gt 300 ]; do
    sleep 0.02
done
[ "$index" != 0 ] || echo '{"complete": true}' >"$workdir/results.json"
[ ! -e TOP/breaks ] || exit 1
echo "host $index is done"
"""


class Cloud:
    """Workers that are folders of this machine, and what was asked of them."""

    def __init__(self, top: pathlib.Path, workers: int, capfd):
        self.top, self._capfd = top, capfd
        self.homes = [top / "workers" / str(i) for i in range(workers)]
        self.project = top / "project"
        for folder in (*self.homes, top / "bin", top / "here", self.project / "launch"):
            folder.mkdir(parents=True)
        script = GCLOUD.format(python=sys.executable, top=str(top))
        programs = {"gcloud": script, "curl": CURL, "make": MAKE, "dpkg": "#!/bin/sh\n"}
        for name, text in programs.items():
            (top / "bin" / name).write_text(text.replace("TOP", str(top)))
            (top / "bin" / name).chmod(0o755)
        (top / "bmg").write_text(BMG.replace("TOP", str(top)))
        (top / "bmg").chmod(0o755)
        (self.project / "launch" / "code.py").write_text("1")
        for command in (["init", "-q"], ["add", "."]):
            subprocess.run(["git", "-C", str(self.project), *command], check=True)
        (self.project / "launch" / "code.py").write_text("2")
        (self.project / "untracked").write_text("")

    def __call__(self, command: str, *arguments: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        self._capfd.readouterr()
        code = tpu.main(command, list(arguments))
        return code, *self._capfd.readouterr()

    def put(self, name: str, text: str = "") -> None:
        """A file that the fake programs look for."""
        (self.top / name).write_text(text)

    def calls(self) -> list[list[str]]:
        """Commands that gcloud was asked for."""
        path = self.top / "calls"
        return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []

    def verbs(self) -> list[str]:
        return [call[4] for call in self.calls()]

    def arguments(self, worker: int) -> list[str]:
        """Command lines of `bmg` on a worker."""
        path = self.homes[worker] / "arguments"
        return path.read_text().splitlines() if path.exists() else []

    def processes(self) -> list[psutil.Process]:
        """All that runs on the workers."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME", "").startswith(str(self.top)):
                    found.append(process)
            except psutil.Error:
                pass
        return [process for process in found if commands.alive(process)]

    def wait_for_the_end(self) -> None:
        """Of the run on every worker: `bmg pod run` waits for the first one's alone."""
        eventually(lambda: self.processes() == [])

    def running(self) -> bool:
        """Whether the run goes on everywhere."""
        return all((home / "bmg/run/pod/pid").exists() for home in self.homes) and all(
            len(self.arguments(i)) for i in range(len(self.homes))
        )


@pytest.fixture
def cloud(request, tmp_path, monkeypatch, capfd):
    """Two workers, or as many as the test is parameterised with."""
    cloud = Cloud(tmp_path, getattr(request, "param", 2), capfd)
    monkeypatch.setattr(tpu, "ROOT", cloud.project)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    yield cloud
    try:
        cloud.wait_for_the_end()
    finally:
        for process in cloud.processes():
            process.kill()


def content(*path: str | pathlib.Path) -> str:
    return pathlib.Path(*path).read_text()


@pytest.mark.parametrize("cloud", [1, 2], indirect=True)
def test_a_run_from_the_code_to_the_results(cloud):
    cloud.put("finish")
    code, out, err = cloud("run", "--", "--preset", "paper", "--game", "ms_pacman", "--seed", "3")
    assert (code, err) == (0, "")
    for index, home in enumerate(cloud.homes):
        assert cloud.arguments(index) == [
            f"train --preset paper --game ms_pacman --seed 3 --workdir {home}/bmg/run "
            "--hosts.cluster tpu"
        ]
        assert content(home, "made") == "setup ACCELERATOR=tpu\n"
        assert content(home, "bmg/code/launch/code.py") == "2", "as it is now, not as committed"
        assert not (home / "bmg/code/untracked").exists()
        assert f"worker {index}: started" in out
    assert "host 0 goes\nhost 0 is done\nthe run has ended with exit code 0" in out
    assert "host 1 goes" not in out
    assert json.loads(content("runs/bmg/results.json")) == {"complete": True}
    assert "host 0 is done" in content("runs/bmg/pod/console")
    assert cloud.verbs() == ["scp", "ssh", "ssh", "ssh", "scp"]
    assert [x for x in cloud.calls()[-1] if "worker" in x] == ["--worker=0"]


def test_another_run_is_refused_and_the_first_one_can_be_stopped(cloud):
    first = Call(lambda: tpu.main("run", ["--", "--game", "catch"]))
    eventually(cloud.running)
    code, _, err = cloud("run", "--results", "other", "--", "--game", "catch")
    assert code == 1 and len(err.splitlines()) == 1
    assert "could not set up all workers" in err and "worker 0: a run goes on in bmg/run" in err
    assert "bmg pod stop" in err and first.running

    # The start refuses as well, on a worker; and what is stopped after it failed is its own alone.
    def on_worker(script: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "HOME": str(cloud.homes[1])}
        command = ["bash", "-c", script]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    refused = on_worker(tpu_scripts.start("bmg/run", [], False, "another"))
    assert refused.returncode == 1 and refused.stderr.startswith("worker 1: a run goes on")
    assert on_worker(tpu_scripts.stop("bmg/run", "another")).returncode == 0
    assert first.running and len(cloud.processes()) >= 4 and len(cloud.arguments(1)) == 1

    code, out, _ = cloud("status")
    assert code == 0 and "v4-16\tREADY" in out
    assert "worker 0: running | host 0 goes\n  worker 1: running | host 1 goes\n" in out

    code, out, _ = cloud("stop")
    assert code == 0 and "worker 0: stopped\n  worker 1: stopped\n" in out
    assert first.result() == 130
    for part in ("", "hosts/1"):
        home = cloud.homes[1 if part else 0]
        assert content(home, "bmg/run", part, "checkpoints/last") == "of-term\n"
    assert content("runs/bmg/checkpoints/last") == "of-term\n", "brought back"
    assert cloud.processes() == []
    code, out, _ = cloud("stop")
    assert code == 0 and "worker 1: no run goes on" in out
    assert "worker 0: ended with exit code 130 | stopped\n" in cloud("status")[1]


def test_a_setup_that_fails_starts_nothing(cloud):
    (cloud.homes[1] / "no-python").touch()
    code, _, err = cloud("run")
    assert code == 1 and len(err.splitlines()) == 1
    assert "set up all workers" in err and "worker 1: make setup: setup: no Python" in err
    assert cloud.verbs() == ["scp", "ssh"] and cloud.arguments(0) == []


def test_a_start_that_fails_on_one_worker_is_undone_on_all(cloud):
    (cloud.homes[1] / "refuses").touch()
    code, _, err = cloud("run")
    assert code == 1 and len(err.splitlines()) == 1
    assert "could not start the run on all workers: worker 1: bmg train: bmg: batch" in err
    assert content(cloud.homes[0], "bmg/run/checkpoints/last") == "of-term\n"
    assert cloud.processes() == [] and cloud.verbs() == ["scp", "ssh", "ssh", "ssh"]


def test_a_worker_that_does_not_know_its_number_starts_nothing(cloud):
    (cloud.homes[1] / "no-number").touch()
    code, _, err = cloud("run")
    assert code == 1 and len(err.splitlines()) == 1
    assert "worker ?: the metadata server does not say which one this is" in err
    assert cloud.arguments(1) == []


def test_resuming_ships_the_code_again_and_keeps_the_run(cloud):
    cloud.put("finish")
    code, _, err = cloud("resume")
    assert code == 1 and "worker 1: no run to resume in" in err and cloud.processes() == []
    assert cloud("run", "--results", "a")[0] == 0
    cloud.wait_for_the_end()
    (cloud.project / "launch" / "new.py").write_text("3")
    (cloud.project / "launch" / "code.py").unlink()
    subprocess.run(["git", "-C", str(cloud.project), "add", "--all"], check=True)
    (cloud.homes[0] / "bmg/code/.venv/kept").touch()
    code, _, err = cloud("resume", "--results", "a", "--", "--frames", "9")
    assert (code, err) == (0, "")
    for index, home in enumerate(cloud.homes):
        last = cloud.arguments(index)[-1]
        assert last.startswith(f"train --frames 9 --resume --workdir {home}/bmg/run --hosts.c")
        assert os.listdir(home / "bmg/code/launch") == ["new.py"]
    assert (cloud.homes[0] / "bmg/code/.venv/kept").exists()
    assert "host 0 is done" in content("a/pod/console.before")


def test_a_run_that_fails_brings_what_there_is(cloud):
    cloud.put("breaks")
    run = Call(lambda: tpu.main("run", []))
    eventually(lambda: len(cloud.verbs()) == 4)  # its console is shown
    cloud.put("finish")
    assert run.result() == 1 and content("runs/bmg/config.json")
    cloud.wait_for_the_end()
    assert "worker 1: ended with exit code 1 | host 1 goes\n" in cloud("status")[1]
    with pytest.raises(ValueError, match="runs/bmg holds a run already; give another --results"):
        cloud("run")


def test_logs_of_another_worker_and_results_at_any_time(cloud):
    cloud.put("finish")
    assert cloud("run")[0] == 0
    code, out, err = cloud("logs", "--worker", "1")
    assert code == 0 and "host 1 goes\nhost 1 is done\n" in out and err == ""
    assert cloud("logs", "--fetch", "--results", "now")[0] == 0
    assert json.loads(content("now/results.json")) == {"complete": True}
    code, _, err = cloud("logs", "--workdir", "bmg/none")
    assert code == 1 and "worker 0: no run in bmg/none" in err


def test_ctrl_c_ends_the_showing_alone(cloud):
    program = (
        "import pathlib, sys\n"
        "from bmg.launch.hosts import tpu\n"
        f"tpu.ROOT = pathlib.Path({str(cloud.project)!r})\n"
        "sys.exit(tpu.main('run', ['--zone', 'us-central2-b']))"
    )
    shown = subprocess.Popen(
        [sys.executable, "-c", program],
        env=commands.environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in shown.stdout:
        if line == "host 0 goes\n":
            break
    os.killpg(shown.pid, signal.SIGINT)
    out, _ = shown.communicate(timeout=DEADLINE)
    assert shown.returncode == 130
    same = "--name=bmg --zone=us-central2-b --workdir=bmg/run"
    assert f"bmg pod logs {same};" in out and f"bmg pod stop {same}\n" in out
    assert "worker 1: running" in cloud("status")[1]
    sessions = set()
    for process in cloud.processes():
        with contextlib.suppress(ProcessLookupError):  # they come and go
            sessions.add(os.getsid(process.pid))
    assert sessions and shown.pid not in sessions
    assert cloud("stop")[0] == 0


DRY = {
    "create": ["--accelerator-type", "v4-16", "--spot", "--zone", "us-central2-b"],
    "run": ["--project", "a-project", "--", "--game", "catch"],
    "status": [],
    "logs": ["--worker", "1"],
    "stop": ["--delete"],
    "resume": ["--", "--frames", "9"],
}


def test_a_dry_run_prints_and_executes_nothing(cloud, monkeypatch):
    for command in DRY:
        with named(command):
            with monkeypatch.context() as patched:
                patched.setenv("PATH", str(cloud.top))  # there is no gcloud, nor anything else
                code, out, err = cloud(command, "--dry-run", *DRY[command])
            assert (code, err) == (0, "") and out
            assert cloud.calls() == [] and os.listdir() == []
            for line in out.splitlines():
                assert shlex.split(line)[0] in ("gcloud", "git", "mkdir")
                scripts = [x for x in shlex.split(line) if x.startswith("--command=")]
                for script in [line, *(x.removeprefix("--command=") for x in scripts)]:
                    subprocess.run(["bash", "-n", "-c", script], check=True)


def test_a_dry_run_prints_what_a_run_executes(cloud, monkeypatch):
    cloud.put("finish")
    monkeypatch.setattr(tpu.secrets, "token_hex", lambda size: "0123")
    lines = cloud("run", "--dry-run", "--", "--game", "catch")[1].splitlines()
    cloud("run", "--", "--game", "catch")
    calls = cloud.calls()
    assert [shlex.split(line) for line in lines if line.startswith("gcloud")] == calls
    archive = "runs/bmg/bmg-code.tar.gz"
    assert lines[:2] == [
        "mkdir -p runs/bmg",
        f"git -C {cloud.project} ls-files -z | tar -C {cloud.project} -czf {archive} --null -T -",
    ]


def test_what_gcloud_is_asked_for(cloud):
    where = ["--zone", "europe-west4-a", "--project", "p-1", "--name", "big"]
    wide = ["--zone=europe-west4-a", "--project=p-1", "--quiet"]
    assert cloud("create", "--accelerator-type", "v3-32", "--spot", *where)[0] == 0
    kind = ["--accelerator-type=v3-32", "--version=tpu-ubuntu2204-base", "--spot"]
    assert cloud.calls()[-1][4:] == ["create", "big", *kind, *wide]
    cloud.put("fail-ssh", "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) The TPU is PREEMPTED.\n")
    code, _, err = cloud("stop", "--delete", *where)
    assert code == 0 and "TPU is PREEMPTED" in err
    assert cloud.calls()[-1][4:] == ["delete", "big", *wide]


ERRORS = [
    ("create", "create --accelerator-type v4-16", ["could not create the slice bmg", "quota"]),
    ("describe", "status", ["could not look at the slice", "bmg pod create"]),
    ("scp", "run", ["could not copy the code", "nothing was started"]),
    ("ssh", "logs", ["could not show worker 0's console", "the run may go on"]),
    ("delete", "stop --delete", ["could not delete the slice bmg"]),
]


def test_an_error_of_gcloud_is_one_line(cloud):
    for verb, command, words in ERRORS:
        with named(command):
            cloud.put(f"fail-{verb}", "Using x.\nERROR: (gcloud.x) NOT_FOUND: no such\n  thing\n")
            code, _, err = cloud(*command.split())
            (cloud.top / f"fail-{verb}").unlink()
            assert code == 1 and len(err.splitlines()) == 1 and err.startswith("bmg: could not ")
            assert all(word in err for word in [*words, "(gcloud.x) NOT_FOUND: no such thing"]), err


UNSET = [
    ("zone", "The required property [zone] is not currently set. It can be set on a per-command"),
    ("project", "Error parsing [tpu]. Failed to find attribute [project]. The attribute can be"),
]


def test_what_gcloud_lacks_is_named_as_an_option(cloud):
    for option, text in UNSET:
        with named(option):
            cloud.put("fail-describe", f"ERROR: (gcloud.x.describe) {text}\n")
            code, _, err = cloud("status")
            assert code == 1 and f"gcloud has no {option}; give --{option}" in err, err
            assert len(err.splitlines()) == 1 and "bmg pod create" not in err


BAD_INPUT = [
    ("stat", ["'stat'", "Did you mean status?"]),
    ("status --zone us-central2", ["'us-central2'", "us-central2-b"]),
    ("status --zone b", ["'b'", "us-central2-b"]),
    ("status --name Big", ["'Big'", "small letters"]),
    ("status --project=P;x", ["'P;x'", "project's ID"]),
    ("create", ["--accelerator-type is missing"]),
    ("create --accelerator-type v4", ["'v4'", "v2-SIZE", "v6e-SIZE", "such as v4-8;"]),
    ("create --accelerator-type v5e-16", ["such as v5litepod-16;"]),
    ("create --accelerator-type V4_32", ["such as v4-32;"]),
    ("create --accelerator-type v3-30", ["such as v3-32;"]),
    ("create --accelerator-type v4-4", ["such as v4-8;"]),
    ("create --accelerator-type tpu", ["type is 'tpu'", "such as v"]),
    ("run --preset paper", ["no option '--preset'", "follow '--'"]),
    ("run -- --preset pap", ["'pap'", "Did you mean paper?"]),
    ("run -- --frames x", ["--frames is 'x'; allowed are"]),
    ("run -- --workdir x", ["--workdir", "leave it out"]),
    ("run -- --hosts.count=2", ["--hosts.count", "leave it out"]),
    ("resume -- --resume", ["--resume", "leave it out"]),
    ("run --workdir bmg/code/run", ["'bmg/code/run'", "beside bmg/code"]),
    ("run --workdir bmg", ["'bmg'", "beside bmg/code"]),
    ("run --workdir ../x", ["workdir is '../x'", "beside bmg/code"]),
    ("run --results host:x", ["'host:x'", "colon"]),
    ("logs --worker -1", ["worker is -1"]),
    ("stop -- --game pong", ["stop", "leave '--' out"]),
]


def test_bad_input_is_one_line(cloud):
    for arguments, words in BAD_INPUT:
        with named(arguments):
            with pytest.raises(ValueError) as caught:
                pod.main(arguments.split())
            line = str(caught.value)
            assert "\n" not in line and all(word in line for word in words), line
            assert cloud.calls() == [] and os.listdir() == []


def test_without_gcloud(cloud, monkeypatch, capfd):
    monkeypatch.setenv("PATH", str(cloud.top))
    with pytest.raises(ValueError, match="https://cloud.google.com/sdk") as caught:
        cloud("status")
    assert cli.fail(str(caught.value)) == 2 and len(capfd.readouterr().err.splitlines()) == 1


TYPES = [
    "v2-8", "v3-32", "v4-32", "v5litepod-1", "v5litepod-4", "v5litepod-16", "v5p-8",
    "v6e-8", "v6e-256", "v5p-12288",
]  # fmt: skip


def test_accelerator_types():
    for name in TYPES:
        with named(name):
            assert tpu_options.check_accelerator_type(name) is None


def test_the_line_that_matters():
    several = "SSH: x\nworker 3: b\nworker 1: a\n##### Command execution on worker 1 failed\n"
    assert tpu.error_line(several) == "worker 1: a"
    assert tpu.error_line("ERROR: first\nWARNING: x\nERROR: (g) {\n 'code': 8\n}") == (
        "(g) { 'code': 8 }"
    )
    assert tpu.error_line("tar: a\n\ntar: b\n") == "tar: b"
    assert tpu.error_line("") == "no reason was given"


def test_packing_without_git(cloud, tmp_path):
    shutil.rmtree(cloud.project / ".git")
    for name in (".venv-x", ".tools", "runs", "launch/__pycache__"):
        (cloud.project / name).mkdir()
        (cloud.project / name / "file").touch()
    tpu.execute(tpu.pack_step(cloud.project, "code.tar.gz"))
    names = subprocess.run(["tar", "-tf", "code.tar.gz"], capture_output=True, text=True).stdout
    files = {name for name in names.splitlines() if not name.endswith("/")}
    assert files == {"./launch/code.py", "./untracked"}
