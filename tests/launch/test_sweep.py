"""`bmg sweep`: which runs a file means, real runs that are stopped, fail and go on, SLURM's side of
it with programs in place of SLURM's, bad input."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from bmg.environments.scores import GAMES
from bmg.launch import runs, train
from bmg.launch.sweeps import declaration, local, slurm
from bmg.storage.run_directory import config_file, to_dict
from tests.launch import commands
from tests.waiting import DEADLINE

SMALL = """
games = ["catch", "minatar/breakout"]
seeds = [3, 5]
root = "there"
parallel = 2

[options]
runtime = "in-graph"
agent.meta.auxiliary_tasks = 1
"agent.loss.discount" = 0.5

[settings.plain]
agent.algorithm = "impala"

[settings."with more"]
agent.loss.discount = 0.75
preset = "paper"

[grid]
"agent.optimizer.learning_rate" = [1e-3, 2]
"agent.network.center_frames" = [true, false]
"agent.network.head_hidden" = [[], [32, 16]]
"""


def written(folder: pathlib.Path, text: str, name: str = "own.toml") -> pathlib.Path:
    path = folder / name
    path.write_text(text)
    return path


def runs_of(path: pathlib.Path) -> list[declaration.Run]:
    return declaration.runs_of(declaration.load(path), pathlib.Path("there"))


def test_a_file_means_every_combination(tmp_path):
    found = runs_of(written(tmp_path, SMALL))
    assert len(found) == 2 * 2 * 2 * (2 * 2 * 2) == len({run.name for run in found})
    assert [run.config.seed for run in found] == [3] * 32 + [5] * 32, "the first seeds first"
    by_name = {run.name: run.config for run in found}
    name = "minatar-breakout/with-more-learning_rate=2-center_frames=false-head_hidden=32+16/seed-5"
    config = by_name[name]
    assert config.workdir == f"there/{name}" and config.preset == "paper"
    agent = config.agent
    assert (agent.loss.discount, agent.meta.auxiliary_tasks, agent.algorithm) == (0.75, 1, "bmg")
    assert (agent.optimizer.learning_rate, agent.network.center_frames) == (2.0, False)
    assert agent.network.head_hidden == (32, 16)
    other = by_name["catch/plain-learning_rate=0.001-center_frames=true-head_hidden=/seed-3"]
    assert (other.agent.loss.discount, other.agent.algorithm) == (0.5, "impala")
    assert other.preset == "local" and other.agent.network.center_frames


def test_a_command_gives_the_run_that_the_file_means(tmp_path):
    """As the parser of `bmg train` reads it: also switches, lists, presets and empty ones."""
    found = runs_of(written(tmp_path, SMALL))
    for run in found[:32:3]:
        assert run.arguments[0] == "train"
        assert train.parse(run.arguments[1:]) == run.config
    for name in ("small", "ablations", "atari57"):
        cells = {run.name.split("/")[1]: run for run in runs_of(declaration.path_of(name))}
        for run in cells.values():
            assert train.parse(run.arguments[1:]) == run.config


def test_the_sweeps_that_come_along_are_the_papers():
    atari = runs_of(declaration.path_of("atari57"))
    assert len(atari) == 57 * 7 * 3 and {run.config.game for run in atari} == set(GAMES)
    # The columns of table 9: algorithm, matching, L.
    assert {
        (x.agent.algorithm, x.agent.meta.matching, x.agent.meta.target_steps, x.frames)
        for x in (run.config for run in atari)
        if x.agent.algorithm == "bmg"
    } == {
        ("bmg", matching, steps, 200_000_000)
        for matching, steps in (
            ("kl", 1), ("value", 1), ("kl_value", 1), ("symmetric_kl", 1), ("l2", 1),
            ("kl_value", 4),
        )
    }  # fmt: skip
    longer = [run.config for run in atari if run.config.agent.meta.target_steps == 4]
    assert {x.agent.optimizer.max_norm for x in longer} == {0.2}
    ablations = runs_of(declaration.path_of("ablations"))
    settings = [run.config.agent for run in ablations if run.config.seed == 0]
    assert len({json.dumps(to_dict(agent)) for agent in settings}) == len(settings) == 18
    assert len(runs_of(declaration.path_of("small"))) == 24


@pytest.mark.parametrize(
    "text, problem",
    [
        ("games = [", "own.toml cannot be read"),
        ("seeds = [0]", "games is missing"),
        ('games = "pong"', "games is 'pong'"),
        ("games = []", "games is empty"),
        ('games = ["pongg"]', "did you mean 'pong'"),
        ('games = ["pong"]\nseeds = [1, 1]', "seeds has 1 twice"),
        ('games = ["pong", "pong"]', "games has pong twice"),
        ('games = ["pong", "atari57"]', "two runs would be in pong"),
        ('games = ["pong"]\nparallell = 2', "did you mean parallel"),
        ('games = ["pong"]\noptions = 3', "options is 3; give a table, [options]"),
        ('games = ["pong"]\n[options]\nseed = 3', "options: seed is the sweep's own"),
        (
            'games = ["pong"]\n[options]\nagent.meta.k = 2',
            "agent.meta.'k' is no field of MetaConfig",
        ),
        ('games = ["pong"]\n[options]\nagent.x.k = 2', "agent.'x' is no field of AgentConfig"),
        ('games = ["pong"]\n[options]\nseed.x.k = 2', "pong: seed.x.k is no field: seed is not a"),
        ('games = ["pong"]\n[options]\nframes = "many"', "frames is 'many'; allowed are integers"),
        ('games = ["pong"]\n[options]\npreset = "big"', "no preset 'big'"),
        ('games = ["pong"]\n[settings]\na = 1', "settings.a is 1; give a table, [settings.a]"),
        ('games = ["pong"]\n[settings.".."]', "'..' is no name; give one with a letter"),
        ('games = ["pong"]\n[grid]\nframes = 3', "frames is 3; give a list of values"),
        ('games = ["pong"]\n[grid]\nframes = []', "frames is empty; give at least one value"),
        (
            'games = ["pong"]\n[settings.x]\nframes = 1\n[settings."x"]\nframes = 2',
            "own.toml cannot be read",
        ),
        (
            'games = ["pong"]\nseeds = [7, 0, 5]\n[options]\nruntime = "in-graph"\nseeds = 3',
            "seeds has 5 and 7, and with the option seeds = 3 a run of seed 5 trains 5 to 7",
        ),
        (
            'games = ["catch"]\n[settings.""]\n[settings."seed-0"]',
            "the run catch/seed-0/seed-0 would be in the folder of the run catch/seed-0",
        ),
        (f'games = ["pong"]\n[settings.{"a" * 300}]', "name has 312 letters, and at most 251"),
        ('games = ["pong"]\n[settings."a b"]\n[settings.a-b]', "two runs would be in pong/a-b"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(command, tmp_path, text, problem):
    code, out, err = command("sweep", str(written(tmp_path, text)))
    assert code == 2 and out == "" and problem in err and err.count("\n") == 1, err
    assert [x.name for x in tmp_path.iterdir()] == ["own.toml"]


def test_folders_of_others_are_refused(command, tmp_path, monkeypatch):
    path = written(tmp_path, 'games = ["catch"]\nroot = "there"')
    folder = tmp_path / "there/catch/seed-0"
    folder.mkdir(parents=True)
    (run,) = runs_of(path)
    saved = to_dict(run.config)
    saved["agent"]["loss"]["discount"] = 0.25
    config_file(folder).write_text(json.dumps(saved))
    code, _, err = command("sweep", str(path))
    assert code == 2 and "agent.loss.discount = 0.25" in err and "give another --root" in err
    config_file(folder).rename(config_file(tmp_path / "there"))
    code, _, err = command("sweep", str(path))
    assert code == 2 and "there is the directory of a run" in err
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)  # this machine may have it
    code, _, err = command("sweep", str(path), "--root", "other", "--executor", "slurm")
    assert code == 2 and "no sbatch on this machine" in err
    code, _, err = command("sweep", "nothing")
    assert code == 2 and "ablations, atari57, small" in err
    assert command("sweep")[0] == 2


def test_a_dry_run_prints_commands(command, tmp_path):
    code, out, err = command("sweep", "small", "--dry-run", "--root", "some where")
    assert code == 0 and err == "" and not list(tmp_path.iterdir())
    lines = [shlex.split(line) for line in out.splitlines()]
    assert len(lines) == 24 and all(line[:2] == ["bmg", "train"] for line in lines)
    assert "some where/minatar-asterix/bmg/seed-2" in lines[-1]


def test_each_run_has_cores_of_its_own():
    there = sorted(os.sched_getaffinity(0))
    assert local.slots_of(1, 0) == [set(there)]
    assert local.slots_of(len(there), 1) == [{core} for core in there]
    assert local.slots_of(len(there) + 1, 0) == [None] * (len(there) + 1), "too few"
    assert local.slots_of(2, len(there)) == [None, None]


CATCH = """
games = ["catch"]
seeds = [0, 1]
root = "runs"
parallel = 2

[options]
runtime = "in-graph"
frames = {frames}
learner.log_interval = 0.5
evaluator.episodes = 4
evaluator.num_evaluators = {evaluators}
agent.algorithm = "impala"
"""


@pytest.mark.slow
def test_a_sweep_is_stopped_and_goes_on(tmp_path):
    """Each run ends with a checkpoint, and goes on from it; what is complete is left alone."""
    path = written(tmp_path, CATCH.format(frames=10**9, evaluators=0))
    folders = [tmp_path / f"runs/catch/seed-{seed}" for seed in (0, 1)]
    with commands.started("sweep", str(path), cwd=tmp_path) as run:
        for folder in folders:
            run.wait_for(lambda folder=folder: commands.learner_rows(folder))
        run.interrupt()
        code, out, err = run.finish()
        assert not run.left()
    assert code == 130 and "stopping: each run writes a checkpoint" in out, out + err
    assert out.count(": stopped\n") == 2 and f"go on with: bmg sweep {path}" in out
    frames = [commands.json_of(folder / "results.json")["frames"] for folder in folders]
    assert all(0 < x < 10**9 for x in frames)

    # To their end, which is not far from where they are.
    path = written(tmp_path, CATCH.format(frames=max(frames) + 5_000, evaluators=1))
    code, out, err = commands.bmg("sweep", str(path), cwd=tmp_path)
    assert code == 0 and out.count(": complete after") == 2, out + err
    for folder, before in zip(folders, frames):
        results = commands.json_of(folder / "results.json")
        assert results["complete"] and results["evaluation"]["final"]
        assert [row["frames"] for row in commands.learner_rows(folder)] == sorted(
            row["frames"] for row in commands.learner_rows(folder)
        )
        assert results["frames"] > before
    written_at = [(folder / "results.json").stat().st_mtime_ns for folder in folders]
    code, out, err = commands.bmg("sweep", str(path), cwd=tmp_path)
    assert code == 0 and "2 of 2 runs are complete" in out and "starts" not in out
    assert written_at == [(folder / "results.json").stat().st_mtime_ns for folder in folders]


def test_a_run_that_was_stopped_before_it_began_has_not_begun(tmp_path, monkeypatch, capsys):
    """It has no configuration yet; the other one has."""
    path = written(tmp_path, CATCH.format(frames=100, evaluators=0))
    found = declaration.runs_of(declaration.load(path), tmp_path / "runs")
    asked = threading.Event()

    def start(run, log, cores):
        if run.config.seed == 0:
            run.config.path.mkdir(parents=True)
            config_file(run.config.path).write_text("{}")
        else:
            asked.set()
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    monkeypatch.setattr(local, "start", start)
    monkeypatch.setattr(local.signals, "orderly", lambda at_once: contextlib.nullcontext(asked))
    assert local.run_all(tmp_path / "runs", found, [None, None], 0, lambda: None) == ([], True)
    out = capsys.readouterr().out
    assert "catch/seed-0: stopped\n" in out and "catch/seed-1: not begun\n" in out


# It ends the process the first time that it is made.
FRAGILE = """
import os, pathlib
from bmg.environments import in_graph_catch
from bmg.environments.in_graph import World
def make():
    marker = pathlib.Path(__file__).with_name("marker")
    if not marker.exists():
        marker.touch()
        os._exit(7)
    return World(in_graph_catch, in_graph_catch.make_params())
"""


@pytest.mark.slow
def test_a_run_that_fails_goes_again_and_one_that_cannot_be_does_not(tmp_path):
    (tmp_path / "fragile.py").write_text(FRAGILE)
    text = CATCH.format(frames=2_000, evaluators=0).replace("seeds = [0, 1]", "seeds = [0]")
    text = text.replace('["catch"]', '["fragile:make", "fragile:nothing"]')
    path = written(tmp_path, text)
    variables = {"PYTHONPATH": f"{commands.ROOT}:{tmp_path}"}
    with commands.started("sweep", str(path), cwd=tmp_path, variables=variables) as run:
        code, out, err = run.finish()
    assert code == 1, out + err
    assert "fragile-make/seed-0: failed (exit code 7), goes on; 2 tries left" in out
    assert "fragile-make/seed-0: complete after" in out
    log = tmp_path / "runs/logs/fragile-nothing-seed-0.log"
    assert out.count("fragile-nothing/seed-0: ") == 2, "it starts and fails once"
    assert f"failed (exit code 2), see {log.relative_to(tmp_path)}" in out
    assert "bmg: " in log.read_text() and "1 failed; try again with: bmg sweep" in out


# What SLURM's programs do, as far as submitit and the sweep ask for it.
SBATCH = """
import os, pathlib, re, subprocess, sys
script = pathlib.Path(sys.argv[1]).read_text()
home = pathlib.Path(os.environ["STAND_IN"])
(home / "script").write_text(script)
last = re.search(r"--array=0-(\\d+)", script)
for task in range(int(last[1]) + 1) if last else [None]:
    name = "7" if task is None else f"7_{task}"
    (home / "queue" / name).touch()
    subprocess.Popen([sys.executable, str(home / "task.py"), name, sys.argv[1]],
                     start_new_session=True, stdin=subprocess.DEVNULL,
                     stdout=subprocess.DEVNULL, stderr=open(home / "errors", "a"))
print("Submitted batch job 7")
"""
# Runs a task until it ends without having been queued again.
TASK = """
import os, pathlib, subprocess, sys
home, name = pathlib.Path(os.environ["STAND_IN"]), sys.argv[1]
main, _, task = name.partition("_")
env = {**os.environ, "SLURM_JOB_ID": main + task, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1",
       "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
if task:
    env |= {"SLURM_ARRAY_JOB_ID": main, "SLURM_ARRAY_TASK_ID": task}
again = home / "again" / name
while True:
    again.unlink(missing_ok=True)
    subprocess.run(["bash", sys.argv[2]], env=env)
    if not again.exists():
        break
(home / "queue" / name).unlink()
"""
SRUN = """
import os, pathlib, sys
words = sys.argv[1:]
command = words[words.index("--error") + 2:]
name = "_".join(filter(None, map(os.environ.get, ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"))))
pathlib.Path(os.environ["STAND_IN"], "pid-" + (name or "7")).write_text(str(os.getpid()))
os.execvp(command[0], command)
"""
SQUEUE = """
import os, pathlib
print(*(x.name for x in pathlib.Path(os.environ["STAND_IN"], "queue").iterdir()), sep="\\n")
"""
SCONTROL = """
import os, pathlib, sys
assert sys.argv[1] == "requeue"
pathlib.Path(os.environ["STAND_IN"], "again", sys.argv[2]).touch()
"""


@pytest.fixture
def cluster(tmp_path):
    """Environment variables of a machine with programs in SLURM's place."""
    home = tmp_path / "cluster"
    for name in ("bin", "queue", "again"):
        (home / name).mkdir(parents=True)
    (home / "task.py").write_text(TASK)
    programs = {"sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE, "scontrol": SCONTROL}
    for name, text in programs.items():
        program = home / "bin" / name
        program.write_text(f"#!{sys.executable}\n{text}")
        program.chmod(0o755)
    yield {"STAND_IN": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
    for file in home.glob("pid-*"):  # what a failed test leaves
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.mark.slow
def test_slurm_runs_an_array_and_what_is_preempted_goes_on(tmp_path, cluster):
    text = CATCH.format(frames=10**9, evaluators=0)
    text += '\n[slurm]\ntimeout_min = 30\nslurm_partition = "short"\ngpus_per_node = 1\n'
    path = written(tmp_path, text)
    words = ["sweep", str(path), "--executor", "slurm", "--cores", "3"]
    home = pathlib.Path(cluster["STAND_IN"])

    def bmg(*arguments):
        # Not by `commands.bmg`, which kills what it sees the command start: the array's tasks stay.
        run = subprocess.run(
            [*commands.BMG, *arguments], cwd=tmp_path, env={**commands.environment(), **cluster},
            capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        return run.returncode, run.stdout, run.stderr

    code, out, err = bmg(*words)
    assert code == 0 and "catch/seed-0: job 7_0" in out and "catch/seed-1: job 7_1" in out, err
    script = (home / "script").read_text()
    for line in ("array=0-1%2", "partition=short", "gpus-per-node=1", "cpus-per-task=3",
                 "time=30", "job-name=bmg-sweep"):  # fmt: skip
        assert f"#SBATCH --{line}" in script
    folder = tmp_path / "runs/catch/seed-1"
    _wait(lambda: commands.learner_rows(folder))
    code, out, err = bmg(*words)
    assert code == 0 and "catch/seed-1: runs already" in out, out + err
    assert len((home / "script").read_text()) == len(script), "nothing was submitted"
    _signal_all(int((home / "pid-7_0").read_text()), signal.SIGSTOP)  # the cores are for the other

    # By the end of its time, and by the way of preemption.
    for number, told in enumerate(([signal.SIGUSR2], [signal.SIGTERM, signal.SIGUSR2]), start=2):
        for each in told:
            _signal_all(int((home / "pid-7_1").read_text()), each)
            time.sleep(1.0)
        _wait(lambda number=number: _sessions(folder).get(number, 0) > 0)
        begin = _sessions(folder)[number]
        _wait(lambda begin=begin: commands.learner_rows(folder)[-1]["frames"] > begin)
    _signal_all(int((home / "pid-7_0").read_text()), signal.SIGCONT)
    for task in (0, 1):
        pid = int((home / f"pid-7_{task}").read_text())
        os.kill(pid, signal.SIGTERM)  # submitit lets it pass
        os.kill(pid, signal.SIGKILL)
    _wait(lambda: not list((home / "queue").iterdir()))
    _wait(lambda: not any(runs.is_owned(tmp_path / f"runs/catch/seed-{x}") for x in (0, 1)))


def _signal_all(pid: int, number: int) -> None:
    """As SLURM does: a job's own process, and every one that it has started."""
    for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _sessions(folder) -> dict[int, float]:
    """Number of a session -> frames that it went on from."""
    return {row["session"]: row["frames"] for row in commands.rows_of(folder) if "session" in row}


def _wait(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_slurm_says_what_it_refuses(tmp_path, monkeypatch, cluster):
    """An option that submitit does not know; a queue that does not answer."""
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    (run,) = runs_of(written(tmp_path, 'games = ["catch"]'))
    with pytest.raises(ValueError, match="SLURM: .*colour"):
        slurm.submit(tmp_path / "runs", [run], 0, {"colour": "red"})
    assert slurm.queued(tmp_path / "runs") == {}, "nothing was submitted"
    (tmp_path / "runs/jobs.json").write_text('{"catch/seed-0": "5"}')
    assert slurm.queued(tmp_path / "runs") == {}, "job 5 is over"
    program = tmp_path / "cluster/bin/squeue"
    program.write_text("#!/bin/sh\necho no controller >&2\nexit 1\n")
    with pytest.raises(ValueError, match="squeue does not answer: no controller"):
        slurm.queued(tmp_path / "runs")
