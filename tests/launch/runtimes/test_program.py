"""Real programs under both runtimes: they learn, end cleanly, resume, and fail in plain words."""

from __future__ import annotations

import pathlib
import re
import shutil
import signal
from typing import NamedTuple

import psutil
import pytest

from bmg.environments.scores import human_normalized_score
from bmg.launch.runtimes.choice import why_no_launchpad
from bmg.learner.dashboard import description_of
from bmg.storage.memory import keeping_freed_memory
from tests.launch import commands
from tests.launch.commands import (
    bmg,
    checkpoints_of,
    json_of,
    learner_rows,
    nodes_of,
    rows_of,
    started,
)

pytestmark = pytest.mark.slow

LAUNCHPAD = pytest.param("launchpad", marks=pytest.mark.launchpad)
THREADS = "local-threads"
RUNTIMES = [LAUNCHPAD, THREADS]
# A small run of a real game: two processes that move data, and an evaluator where it is asked for.
PONG = (
    "train --game pong --agent.network.torso mlp --agent.network.features 16 "
    "--agent.network.head-hidden --actors.num-actors 1 --actors.envs-per-actor 4 "
    "--learner.online-batch 2 --learner.replay-batch 2 --learner.log-interval 0.2 "
    "--replay.online-capacity 8 --replay.min-replay-size 4 --replay.replay-capacity 50 "
    "--atari.max-episode-frames 800"
).split()
PONG_UPDATE = 2 * 20 * 4  # environment frames
NO_EVALUATOR = ["--evaluator.num-evaluators", "0"]
CATCH = (
    "train --game catch --actors.num-actors 1 --learner.log-interval 0.2 "
    "--evaluator.num-evaluators 0"
).split()
ENDLESS = ["--frames", "2000000000"]
LEAVE = 60.0  # seconds for a run to end at most, on a busy machine


@pytest.fixture(params=RUNTIMES)
def runtime(request) -> list[str]:
    """The option of each runtime in turn."""
    return ["--runtime", request.param]


def assert_nothing_left(run: commands.Run, workdir) -> None:
    """No descendant is left, and none of the nodes' own processes."""
    assert run.left() == []
    known = {child.pid for child in run.children} | {run.process.pid}
    for name, status in nodes_of(workdir).items():
        assert status["pid"] in known, f"{name} was no descendant that was watched"


def learning(workdir, updates: int = 3):
    """A condition: the learner has logged so many updates."""
    return lambda: any(row["learner/updates"] >= updates for row in learner_rows(workdir))


def pids_of(workdir) -> dict[str, int]:
    return {name: status["pid"] for name, status in nodes_of(workdir).items()}


class Catch(NamedTuple):
    """A run of Catch with its defaults that came to its end, and a copy of it."""

    runtime: str
    folder: pathlib.Path
    workdir: pathlib.Path
    copy: pathlib.Path
    code: int
    out: str
    err: str


# Whose tests stay in one process: they share the run.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param("launchpad", marks=[pytest.mark.launchpad, pytest.mark.xdist_group("catch")]),
        pytest.param(THREADS, marks=pytest.mark.xdist_group("catch-threads")),
    ],
)
def catch(request, tmp_path_factory):
    """Catch through the whole program with its defaults.

    It is learned within about 150,000 frames; twice that many leave room for bad luck, and so many
    episodes of nine steps keep luck out of the score.
    """
    folder = tmp_path_factory.mktemp("catch")
    workdir, copy = folder / "runs/catch", folder / "copy"
    arguments = (
        "train --preset local --game catch --frames 300000 --workdir runs/catch "
        f"--evaluator.episodes 500 --runtime {request.param}"
    ).split()
    with started(*arguments, cwd=folder, optimized=True) as run:
        run.wait_for(learning(workdir))
        if request.param == THREADS:
            run.children.clear()  # git, which was asked for the commit
        nodes = nodes_of(workdir)
        for name in [] if request.param == THREADS else ["learner", "actor_0", "evaluator_0"]:
            environment = psutil.Process(nodes[name]["pid"]).environ()
            assert environment.items() >= keeping_freed_memory({}).items(), name
        code, out, err = run.finish(240)
        assert_nothing_left(run, workdir)
        if request.param == THREADS:
            assert not run.children
        else:  # at least a process for replay, learner, two actors and the evaluator
            assert len(run.children) >= 5
    if code == 0:
        shutil.copytree(workdir, copy)
    return Catch(request.param, folder, workdir, copy, code, out, err)


def test_catch_is_learned_by_the_whole_program(catch):
    assert catch.code == 0, catch.out + catch.err
    results = json_of(catch.workdir / "results.json")
    assert results["evaluation_return"] >= 0.9
    assert results["training_return"] >= 0.8  # of the last hundred episodes
    assert results["game"] == "catch"
    assert 300_000 <= results["frames"] < 300_000 + 1_000
    assert results["wall_seconds"] > 0
    assert results["frames_per_second"] == pytest.approx(
        results["frames"] / results["wall_seconds"]
    )
    assert results["human_normalized_score"] == pytest.approx(
        human_normalized_score("catch", results["evaluation_return"])
    )
    assert results["complete"] is True and results["evaluation"]["final"] is True
    assert results["evaluation"]["version"] == results["updates"]
    assert results["protocol"]["algorithm"] == "bmg"
    # An episode lasts nine steps.
    assert results["episodes"] == pytest.approx(results["frames"] / 9, rel=0.02)


def test_catch_did_not_start_out_learned(catch):
    returns = [row["training/return"] for row in rows_of(catch.workdir)
               if "training/return" in row]  # fmt: skip
    assert returns[0] < 0.5 < returns[-1]


def test_the_run_directory_holds_everything(catch):
    workdir = catch.workdir
    names = {path.name for path in workdir.iterdir()}
    assert names >= {"config.json", "results.json", "metrics.jsonl", "checkpoints", "logs",
                     "tensorboard"}  # fmt: skip
    assert not list(workdir.rglob("*.tmp"))
    results = json_of(workdir / "results.json")
    assert checkpoints_of(workdir)[-1] == f"checkpoint_{results['updates']:010d}.npz"
    assert len(list((workdir / "tensorboard").glob("events*"))) == 1
    if catch.runtime != THREADS:  # whose threads share the console
        logs = {path.stem for path in (workdir / "logs").iterdir()}
        assert logs >= {"replay", "learner", "actor_0", "actor_1", "evaluator_0"}
    for path in (workdir / "logs").iterdir():
        assert "Traceback" not in path.read_text(), path.name
    nodes = nodes_of(workdir)
    assert nodes["learner"]["state"] == "finished"
    assert {nodes[f"actor_{i}"]["state"] for i in range(2)} == {"stopped"}


def test_the_console_shows_progress_and_not_logs(catch):
    out = catch.out
    assert catch.err == ""
    lines = out.splitlines()
    assert "bmg on catch" in lines[0]
    *progress, last, what_next = lines[1:]
    assert progress and all("frames/s" in x or x.startswith("starting") for x in progress), out
    assert re.match(r"complete: 300,\d{3} frames in .* \| training .* \| evaluation ", last), out
    assert what_next.startswith("runs/catch/results.json | bmg plot runs/catch | bmg evaluate ")


def test_metrics_of_every_node_arrived(catch):
    rows = rows_of(catch.workdir)
    names = set().union(*rows)
    assert names >= {
        "replay/online_size", "replay/replay_size", "policy_lag/mean", "actors/steps_per_second",
        "actors_time/environment", "actors_time/inference", "actors_time/writing",
        "learner_time/waiting", "evaluation/return", "meta_main/discount", "meta/gradient_norm",
    }  # fmt: skip
    stamps = {"frames", "time", "session"}
    assert [name for name in names - stamps if not description_of(name)] == []
    assert max(row.get("actors/reporting", 0) for row in rows) == 2
    last = [row for row in rows if "learner/frames" in row][-1]
    assert last["policy_lag/min"] >= 0
    # Every unroll is consumed once, and nearly all that were written.
    consumed = last["frames"] / 20
    assert consumed <= last["replay/online_sampled"] + 1
    assert last["replay/online_inserted"] - consumed < 500


def test_a_complete_run_goes_on_and_is_evaluated(catch):
    """--resume with more frames counts on, under the other runtime where there is one; `bmg
    evaluate` plays with what it learned."""
    folder, workdir = catch.folder, catch.workdir
    other = "launchpad" if catch.runtime == THREADS and not why_no_launchpad() else THREADS
    before, frames_before = json_of(workdir / "results.json"), len(learner_rows(workdir))
    code, out, err = bmg(
        *"train --resume --workdir runs/catch --frames 312000 --evaluator.num-evaluators 0".split(),
        "--runtime", other, cwd=folder, timeout=150,
    )  # fmt: skip
    assert code == 0, out + err
    after = json_of(workdir / "results.json")
    assert 312_000 <= after["frames"] < 312_000 + 1_000
    per_update = before["frames"] // before["updates"]
    assert after["updates"] == after["frames"] // per_update > before["updates"]
    assert after["episodes"] > before["episodes"]
    assert after["wall_seconds"] > before["wall_seconds"]
    assert after["evaluation_return"] == before["evaluation_return"]
    assert after["training_return"] >= 0.8, "what was learned is still known"
    new = learner_rows(workdir)[frames_before:]
    assert new and all(before["frames"] < row["frames"] <= after["frames"] for row in new)
    assert min(row["policy_lag/min"] for row in new) >= 0

    code, out, err = bmg(
        "evaluate", "--workdir", "runs/catch", "--episodes", "50", cwd=folder, timeout=120
    )
    assert code == 0, out + err
    evaluation = json_of(workdir / "evaluation.json")
    assert evaluation["frames"] == after["frames"] and evaluation["updates"] == after["updates"]
    assert evaluation["episodes"] == len(evaluation["returns"]) == 50
    assert set(evaluation["returns"]) <= {-1.0, 1.0}
    assert evaluation["evaluation_return"] >= 0.8
    assert '"evaluation_return"' in out


def test_a_real_game_trains_checkpoints_and_resumes(tmp_path, runtime):
    """Pong for a moment, an end by itself, and a second stretch that goes on."""
    workdir = tmp_path / "runs/pong"
    options = [*PONG, *NO_EVALUATOR, *runtime, "--workdir", "runs/pong"]
    with started(*options, "--frames", "3200", cwd=tmp_path) as run:
        code, out, err = run.finish(150)
        assert_nothing_left(run, workdir)
    assert code == 0, out + err
    results = json_of(workdir / "results.json")
    assert results["frames"] == 3_200 and results["updates"] == 3_200 // PONG_UPDATE
    assert results["evaluation_return"] is None
    assert checkpoints_of(workdir) == ["checkpoint_0000000020.npz"]
    config = json_of(workdir / "config.json")
    assert config["learner"]["online_batch"] == 2 and config["resume"] is False
    assert config["agent"]["algorithm"] == "bmg"
    last = learner_rows(workdir)[-1]
    assert last["frames"] == 3_200 and last["loss_main/policy_entropy"] > 0

    # Now with an evaluator, of one episode.
    resumed = ["train", "--resume", "--workdir", "runs/pong", "--frames", "6400",
               "--evaluator.num-evaluators", "1", "--evaluator.episodes", "1"]  # fmt: skip
    with started(*resumed, cwd=tmp_path) as run:
        code, out, err = run.finish(150)
        assert_nothing_left(run, workdir)
    assert code == 0, out + err
    results = json_of(workdir / "results.json")
    assert results["frames"] == 6_400 and results["updates"] == 40
    assert -21 <= results["evaluation_return"] <= 21
    assert results["human_normalized_score"] == pytest.approx(
        human_normalized_score("pong", results["evaluation_return"])
    )
    assert [row["frames"] for row in learner_rows(workdir)] == sorted(
        row["frames"] for row in learner_rows(workdir)
    )
    assert checkpoints_of(workdir) == ["checkpoint_0000000020.npz", "checkpoint_0000000040.npz"]


def test_ctrl_c_writes_a_checkpoint_and_leaves_nothing(tmp_path, runtime):
    """Exit code 130 and a line that says how to go on."""
    workdir = tmp_path / "runs/catch"
    with started(*CATCH, *ENDLESS, *runtime, cwd=tmp_path) as run:
        run.wait_for(learning(workdir))
        assert {"learner", "actor_0"} <= pids_of(workdir).keys()
        run.interrupt()
        code, out, err = run.finish(LEAVE)
        assert_nothing_left(run, workdir)
    assert code == 130, out + err
    assert "Traceback" not in out + err
    assert "--resume" in out
    results = json_of(workdir / "results.json")
    assert results["complete"] is False and results["updates"] >= 3
    assert checkpoints_of(workdir)[-1] == f"checkpoint_{results['updates']:010d}.npz"
    assert {status["state"] for name, status in nodes_of(workdir).items() if name != "replay"} == {
        "stopped"
    }


def test_ctrl_c_before_anything_happened(tmp_path, runtime):
    """Processes that are still importing leave as well."""
    workdir = tmp_path / "runs/catch"
    with started(*CATCH, *ENDLESS, *runtime, cwd=tmp_path) as run:
        run.wait_for(lambda: nodes_of(workdir))
        run.interrupt()
        code, out, err = run.finish(LEAVE)
        assert run.left() == []
    assert code == 130, out + err


@pytest.mark.launchpad
def test_actors_ask_the_inference_server(tmp_path):
    """One of two is killed meanwhile and asks again; the run goes on later, and ends by itself."""
    workdir = tmp_path / "run"
    options = ["--actors.num-actors", "2", "--actors.inference", "server", "--workdir", workdir]
    with started(*CATCH, *options, *ENDLESS, cwd=tmp_path) as run:
        run.wait_for(learning(workdir))
        psutil.Process(nodes_of(workdir)["actor_0"]["pid"]).kill()

        def is_back() -> bool:
            last = learner_rows(workdir)[-1]
            return last["nodes/restarts"] == 1 and last["actors/reporting"] == 2

        run.wait_for(is_back)
        run.interrupt()
        code, out, err = run.finish(LEAVE)
        assert_nothing_left(run, workdir)
    assert code == 130 and "actor_0 died" in out, out + err
    rows = learner_rows(workdir)
    occupancy = [row["inference/occupancy"] for row in rows if "inference/occupancy" in row]
    assert 0.3 < max(occupancy) <= 1.0
    assert rows[-1]["inference/steps_per_second"] > 0
    frames = str(int(rows[-1]["learner/frames"]) + 8_000)
    code, out, err = bmg(
        "train", "--resume", "--workdir", workdir, "--frames", frames, cwd=tmp_path, timeout=150
    )
    assert code == 0, out + err


def removed(folder: pathlib.Path):
    """A condition: a folder could be removed, between two of the files that are written there."""

    def holds() -> bool:
        try:
            shutil.rmtree(folder)
        except OSError:
            return False
        return True

    return holds


def test_a_run_directory_that_is_removed_ends_the_run_no_sooner(tmp_path, runtime):
    """The run comes to its end, and writes what it still has to write."""
    workdir = tmp_path / "runs/catch"
    with started(*CATCH, *ENDLESS, *runtime, cwd=tmp_path) as run:
        run.wait_for(learning(workdir))
        run.wait_for(removed(workdir))
        run.wait_for(lambda: learner_rows(workdir))
        run.process.send_signal(signal.SIGTERM)
        code, out, err = run.finish(LEAVE)
        assert run.left() == []
    assert code == 130, out + err
    assert "had been removed while the run went on" in out
    results = json_of(workdir / "results.json")
    assert checkpoints_of(workdir)[-1] == f"checkpoint_{results['updates']:010d}.npz"


def test_nothing_is_left_behind(tmp_path, runtime):
    """Neither by a run that ends nor, once it goes on, by one whose launcher was killed."""
    workdir, folder = tmp_path / "run", tmp_path / "temporary"
    folder.mkdir()
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    options = [*CATCH, *runtime, "--workdir", workdir]
    variables = {"TMPDIR": str(folder)}
    with started(*options, *ENDLESS, cwd=tmp_path, variables=variables) as run:
        run.wait_for(learning(workdir))
        run.process.kill()
        run.wait_for_the_end_of_all()
    assert list(folder.iterdir()) == []
    (workdir / "checkpoints/checkpoint_0000000009.npz.4711.tmp").write_bytes(b"half")
    (workdir / "results.json.4711.tmp").write_bytes(b"half")
    code, out, err = bmg(
        "train", "--resume", "--workdir", workdir, "--frames", "8000", cwd=tmp_path, timeout=150,
        variables=variables,
    )  # fmt: skip
    assert code == 0, out + err
    assert not list(workdir.rglob("*.tmp")) and not (workdir / "jobs").exists()
    assert list(folder.iterdir()) == []


def test_terminating_the_launcher_ends_the_run_in_order(tmp_path, runtime):
    """SIGTERM to the launcher alone, as from a batch system."""
    workdir = tmp_path / "runs/catch"
    with started(*CATCH, *ENDLESS, *runtime, cwd=tmp_path) as run:
        run.wait_for(learning(workdir))
        run.process.send_signal(signal.SIGTERM)
        code, _, _ = run.finish(LEAVE)
        assert_nothing_left(run, workdir)
    assert code != 0
    results = json_of(workdir / "results.json")
    assert checkpoints_of(workdir)[-1] == f"checkpoint_{results['updates']:010d}.npz"


def test_a_node_that_raises_shows_the_end_of_its_log(catch):
    """A checkpoint that is truncated, and no other: the learner cannot resume."""
    folder, workdir = catch.folder, catch.copy
    *others, name = checkpoints_of(workdir)
    for other in others:
        (workdir / "checkpoints" / other).unlink()
    path = workdir / "checkpoints" / name
    path.write_bytes(path.read_bytes()[:1_000])
    results = json_of(workdir / "results.json")

    code, out, err = bmg(
        *"train --resume --workdir copy --frames 400000 --restarts 3".split(),
        cwd=folder, timeout=120,
    )  # fmt: skip
    assert code == 2, out + err
    assert "learner failed" in err
    *_, last, advice = [line for line in err.splitlines() if line.strip()]
    assert name in last and "truncated" in last
    assert advice.startswith("bmg: not started again, it would fail in the same way")
    assert nodes_of(workdir)["learner"]["state"] == "failed"
    assert path.stat().st_size == 1_000 and json_of(workdir / "results.json") == results

    code, out, err = bmg("evaluate", "--workdir", "copy", cwd=folder, timeout=120)
    assert code == 2 and "truncated" in err and len(err.splitlines()) == 1


@pytest.mark.launchpad
def test_launchpads_threads_of_one_process(tmp_path):
    """local_mt, for debugging: the same program without processes."""
    workdir = tmp_path / "runs/catch"
    options = [*CATCH, "--runtime", "launchpad", "--launch", "local_mt", "--frames", "12000"]
    with started(*options, cwd=tmp_path) as run:
        code, out, err = run.finish(150)
        assert run.left() == []
    assert code == 0, out + err
    results = json_of(workdir / "results.json")
    assert results["complete"] and 12_000 <= results["frames"] < 13_000
    assert checkpoints_of(workdir)[-1] == f"checkpoint_{results['updates']:010d}.npz"
    assert {status["pid"] for status in nodes_of(workdir).values()} == {run.process.pid}


def test_a_refused_run_starts_nothing(tmp_path):
    """One line, exit code 2, no process, no file."""
    with started(*"train --game catch --agent.meta.matching klx".split(), cwd=tmp_path) as run:
        code, out, err = run.finish(60)
        assert run.children == set()
    assert code == 2 and len(err.splitlines()) == 1 and "klx" in err and out == ""
    assert list(tmp_path.iterdir()) == []
