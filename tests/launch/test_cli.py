"""The command line: what is typed, what it becomes, and one line for what cannot be."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest

from bmg.environments.games import IN_GRAPH
from bmg.launch import cli, console, preflight, train
from bmg.launch.config import TrainConfig
from bmg.launch.presets import PRESETS
from bmg.launch.supervise import report_end
from bmg.replay import memory
from bmg.storage.run_directory import config_file, load_config, to_dict
from tests.launch import commands
from tests.tables import named
from tests.waiting import DEADLINE


def save_run(folder: pathlib.Path, preset: str = "local", game: str = "catch", **changes):
    """A run directory that holds a configuration and nothing else."""
    config = dataclasses.replace(PRESETS[preset](game), workdir=str(folder), **changes)
    folder.mkdir(parents=True)
    config_file(folder).write_text(json.dumps(to_dict(config)))
    return config


@pytest.fixture
def launchpad(monkeypatch):
    """Launchpad's runtime is what auto means, as where it is installed."""
    choose = lambda runtime: ("launchpad" if runtime == "auto" else runtime, "")  # noqa: E731
    for module in (train, preflight):
        monkeypatch.setattr(module, "choose_runtime", choose)


@pytest.fixture
def large_machine(monkeypatch):
    """The paper's replay fits in memory, where runs keep it there."""
    monkeypatch.setattr(memory, "free_memory", lambda: 10**12)


def test_a_run_with_its_defaults(command):
    config = command.config("train", "--game", "catch")
    assert config == PRESETS["local"]("catch")
    assert config.path == pathlib.Path("runs/catch") and config.path.is_dir()
    _, (spec, _), resume = command.launched[0]
    assert spec.frame_shape == (10, 5, 1) and resume is False


def test_the_version_is_the_packages(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"bmg {version('bmg')}\n"


def test_the_words_people_type(command):
    arguments = "train --preset local --game pong --frames 200000 --workdir runs/pong".split()
    config = command.config(*arguments)
    expected = dataclasses.replace(PRESETS["local"]("pong"), frames=200_000, workdir="runs/pong")
    assert config == expected
    assert config == command.config(*(arguments[:1] + ["--game=pong", *arguments[5:]]))


def test_the_paper_preset(large_machine, command):
    config = command.config("train", "--preset", "paper", "--game", "ms_pacman")
    assert config == PRESETS["paper"]("ms_pacman")
    assert command.launched[0][1].spec.frame_shape == (210, 160, 3)


def test_options_of_every_part(command):
    config = command.config(
        *"train --game catch --seed 4 --agent.algorithm stacx --agent.meta.matching reverse_kl "
        "--agent.meta.inner-steps 2 --agent.network.head-hidden 7 8 --learner.online-batch 4 "
        "--actors.num-actors 3 --replay.min-replay-size 5 --evaluator.episodes 2 "
        "--launch local_mt --atari.sticky-actions 0.25".split()
    )
    assert (config.seed, config.launch) == (4, "local_mt")
    assert (config.agent.algorithm, config.agent.meta.matching) == ("stacx", "reverse_kl")
    assert config.agent.meta.inner_steps == 2 and config.agent.network.head_hidden == (7, 8)
    assert config.learner.online_batch == 4 and config.actors.num_actors == 3
    assert config.replay.min_replay_size == 5 and config.evaluator.episodes == 2
    assert config.atari.sticky_actions == 0.25
    assert config.agent.network.features == PRESETS["local"]("catch").agent.network.features


def test_integers_as_people_type_them(command):
    """Also in lists, where None is allowed, and where an option is looked at before the others."""
    sweep = command.refused(*"sweep nowhere --parallel 1e0 --retries 0.0".split())
    assert "no sweep nowhere" in sweep
    config = command.config(
        *"train --game catch --frames 1e6 --seed 2_000 --agent.network.head-hidden 1e2 8 "
        "--learner.online-batch 4.0 --hosts.count 1e0 --hosts.index 0e0".split()
    )
    expected = (1_000_000, 2_000, (100, 8), 4)
    found = (
        config.frames, config.seed, config.agent.network.head_hidden, config.learner.online_batch
    )  # fmt: skip
    assert found == expected and {type(x) for x in (*found[:2], *found[2], found[3])} == {int}


BAD_INPUT = [
    ("trian", ["'trian'", "train", "evaluate", "benchmark", "Did you mean train?"]),
    ("--game pong", ["no command '--game'"]),
    ("train --game pongg", ["'pongg'", "did you mean 'pong'?"]),
    ("train --game MsPacman", ["'MsPacman'", "did you mean 'ms_pacman'?"]),
    ("train --game Pong-v5", ["did you mean 'pong'?"]),
    ("train --preset locl", ["'locl'", "local, paper, paper-mean-loss", "Did you mean local?"]),
    ("train --game catch --agent.meta.matching klx", ["is 'klx'; allowed are kl, ", "l2"]),
    (
        "train --game catch --agent.algorithm bmgg",
        ["is 'bmgg'; allowed are impala, stacx, bmg, lpg, package.module:function;"],
    ),
    ("train --game catch --actors.parts 2", ["--actors.parts is called --actors.splits now"]),
    ("train --game catch --frames abc", ["--frames is 'abc'; allowed are integers from 1;"]),
    ("train --game catch --frames 1.5e0", ["--frames is 1.5; allowed are integers from 1;"]),
    ("train --game catch --frames 1e300", ["--frames is 1e+300; allowed are integers from 1 to"]),
    ("train --game catch --framez 100", ["no option '--framez'; did you mean --frames;"]),
    (
        "train --game catch --replay.min-replay-size 1000",
        ["--replay.min-replay-size is 1000", "from 1 to 8"],
    ),
    ("train --game", ["--game has no value"]),
    ("train --hosts.index --game catch", ["--hosts.index has no value"]),
    ("train --game catch 5", ["'5' belongs to no option"]),
    ("train --game catch --tyro-print-completion sh", ["no option '--tyro-print-completion'"]),
    (
        "train --game catch --actors.num-actors 600 --hosts.count 2 --hosts.coordinator a:1 "
        "--learner.replay-batch 2",
        ["2 hosts with 600 actors", "--actors.num-actors 500"],
    ),
    ("train --game catch --agent.network.torso shallow", ["shallow", "36x36", "[10, 5, 1]", "mlp"]),
    ("train --game catch --replay.replay-capacity 0", ["give --replay.replay-capacity."]),
    (
        "train --game catch --learner.replay-batch 9 --devices.learner 2",
        ["replay_batch 9", "2 devices", "--learner.replay-batch 8 or 10"],
    ),
    (
        "train --game catch --learner.online-batch 5 --devices.learner 2",
        ["online_batch 5", "2 devices", "--learner.online-batch 4 or 6"],
    ),
    ("train --game catch --devices.learner 64", ["64 devices", "8 there", "--devices.l"]),
    (
        "train --game catch --actors.inference server --devices.learner 6 --devices.inference 3",
        ["6 devices", "3 for inference", "8 there"],
    ),
    (
        "train --game catch --devices.inference 2 --devices.learner 2",
        ["give --actors.inference server"],
    ),
    (
        "train --game catch --actors.inference remote",
        ["is 'remote'; allowed are auto, actor, server;"],
    ),
    ("train --game catch --learner.platform cuda", ["'cuda'", "cpu", "--learner.platform"]),
    (
        "train --game catch --learner.replay-batch 0 --agent.meta.target-steps 2",
        ["replay_batch is 0", "give --learner.replay-batch."],
    ),
    ("train --game catch --resume", ["no run to resume in runs/catch"]),
    ("train --game catch --network open", ["--network is 'open'; allowed are private, host;"]),
    # Nobody may write there, not even an administrator.
    ("train --game catch --workdir /proc/run", ["/proc/run: No such file"]),
    ("evaluate --workdir nowhere", ["no run in nowhere"]),
    ("evaluate", ["--workdir is missing"]),
    ("benchmark lerner", ["'lerner'", "pipeline, impala, runtimes", "Did you mean learner?"]),
    ("benchmark runtimes --runtimes", ["nothing to measure"]),
    ("plot --workdirs nowhere", ["no run in nowhere"]),
    ("suite minatr", ["'minatr'", "Did you mean minatar?"]),
]


def test_bad_input_is_one_line(command, launchpad):
    for arguments, words in BAD_INPUT:
        with named(arguments):
            command.devices = 8 if "--devices" in arguments else 1
            line = command.refused(*arguments.split())
            assert all(word in line for word in words), line


def test_the_devices_are_looked_at_where_there_may_be_several(monkeypatch):
    assert preflight.look_at_devices("") == ("cpu", 8), "tests/conftest.py forces eight"
    monkeypatch.delenv("XLA_FLAGS")
    assert preflight.look_at_devices("cpu") == ("cpu", 1)


@pytest.mark.parametrize(
    ("options", "there", "central_inference"),
    [
        ("", ("cpu", 1), False),
        ("", ("tpu", 8), True),
        ("--actors.inference server", ("cpu", 1), True),
        ("--actors.inference actor --learner.online-batch 8 --learner.replay-batch 8",
         ("tpu", 8), False),
        ("--runtime local-threads", ("cpu", 1), True),
    ],
)  # fmt: skip
def test_actors_ask_where_there_is_an_accelerator(
    command, launchpad, monkeypatch, options, there, central_inference
):
    monkeypatch.setattr(preflight, "look_at_devices", lambda platform: there)
    arguments = "train --preset paper --game catch --learner.online-batch 6".split()
    assert command(*arguments, *options.split())[0] == 0
    assert command.launched[-1][1].central_inference is central_inference


def test_every_game_is_known_to_the_error(command):
    assert "57" in command.refused("train", "--game", "zzz")


def test_a_restart_repeats_nothing_that_the_user_has_to_mend(command, monkeypatch):
    """A node's own error of that kind ends the run as wrong options do."""
    again = []
    monkeypatch.setattr(train, "go_on", lambda config, _: again.append(config.restarts) or 0)
    for mistake, expected in ((False, 0), (True, 2)):
        status = {"state": "failed", "message": "boom", "mistake": mistake}

        def fails(config, *_, status=status) -> int:
            return report_end(config, "failed", ["learner"], {"learner": status, "actor_0": {}})

        monkeypatch.setattr(train, "supervise", fails)
        workdir = f"runs/{mistake}"
        code, _, err = command(*f"train --game catch --restarts 4 --workdir {workdir}".split())
        assert code == expected and "bmg: learner failed: boom\n" in err
        assert ("bmg: not started again" in err) == mistake
    assert again == [4]
    assert command(*"train --game catch --workdir runs/alone".split())[0] == 2


def test_a_directory_of_another_configuration_is_refused(command, tmp_path):
    save_run(tmp_path / "run")
    line = command.refused("train", "--game", "pong", "--workdir", "run", "--resume")
    assert "game = 'catch'" in line and "'pong'" in line and "--workdir" in line
    line = command.refused(
        *"train --game catch --workdir run --resume --agent.meta.matching kl".split()
    )
    assert "agent.meta.matching = 'kl_value'" in line and "'kl'" in line
    line = command.refused("train", "--game", "pong", "--workdir", "run")
    assert "holds a run already; give --resume" in line


@pytest.mark.parametrize("folder", ["run", "run/hosts/1"])
def test_a_later_host_resumes_from_its_own_part_or_the_whole(command, tmp_path, folder):
    config = dataclasses.replace(PRESETS["local"]("catch"), seed=7)
    config = dataclasses.replace(
        config, learner=dataclasses.replace(config.learner, replay_batch=2)
    )
    (tmp_path / folder).mkdir(parents=True)
    config_file(tmp_path / folder).write_text(json.dumps(to_dict(config)))
    options = "--hosts.index 1 --hosts.count 2 --hosts.coordinator 10.0.0.1:8476".split()
    resumed = command.config("train", "--workdir", "run", "--resume", *options)
    assert (resumed.game, resumed.seed, resumed.hosts.index) == ("catch", 7, 1)
    assert resumed.path == pathlib.Path("run/hosts/1")
    assert resumed.evaluator.num_evaluators == 0, "the first host evaluates"


def test_a_directory_of_a_run_needs_resume(command, tmp_path):
    save_run(tmp_path / "run")
    assert "--resume" in command.refused("train", "--game", "catch", "--workdir", "run")


def test_a_broken_directory_is_refused(command, tmp_path):
    save_run(tmp_path / "run")
    config_file(tmp_path / "run").write_text("{")
    for arguments in ("train --workdir run --resume", "evaluate --workdir run"):
        assert "config.json" in command.refused(*arguments.split())


def test_a_run_without_a_checkpoint_cannot_be_evaluated(command, tmp_path):
    save_run(tmp_path / "run")
    assert "checkpoint" in command.refused("evaluate", "--workdir", "run")


def test_resuming_takes_the_saved_configuration(large_machine, command, tmp_path):
    """--resume and --workdir are enough: no other option has to be typed again."""
    saved = save_run(tmp_path / "run", preset="paper", game="breakout", seed=9, frames=77)
    config = command.config("train", "--resume", "--workdir", tmp_path / "run")
    assert dataclasses.replace(config, resume=False) == saved
    assert command.launched[0][2] is False, "there is no checkpoint: it starts from the seed"

    (tmp_path / "run" / "checkpoints" / "checkpoint_0000000002.npz").mkdir()
    command.config("train", "--resume", "--workdir", tmp_path / "run")
    assert command.launched.pop()[2] is False, "a folder is no checkpoint"
    (tmp_path / "run" / "checkpoints" / "checkpoint_0000000001.npz").write_bytes(b"")
    config = command.config("train", "--resume", "--workdir", tmp_path / "run", "--frames", 99)
    assert dataclasses.replace(config, resume=False) == dataclasses.replace(saved, frames=99)
    assert command.launched[1][2] is True


@pytest.mark.parametrize("left", ["metrics.jsonl", "checkpoints/checkpoint_0000000002.npz"])
def test_a_run_that_lost_its_configuration_is_not_mixed_with_another(command, tmp_path, left):
    path = tmp_path / "run" / left
    path.parent.mkdir(parents=True)
    path.write_text("")
    for options in ("--game catch", "--game catch --resume"):
        line = command.refused("train", *options.split(), "--workdir", "run")
        assert "holds checkpoints or metrics of a run, and no config.json" in line


def test_resuming_a_directory_that_was_moved(command, tmp_path):
    """The directory that was named is meant, whatever its configuration says it was called."""
    save_run(tmp_path / "elsewhere")
    (tmp_path / "runs").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "runs" / "catch")
    config = command.config("train", "--resume", "--game", "catch")
    assert config.path.resolve() == tmp_path / "runs" / "catch"


def test_resuming_forgets_how_the_nodes_were(command, tmp_path):
    save_run(tmp_path / "run")
    (tmp_path / "run" / "nodes").mkdir()
    said = '{"state": "finished", "pid": 1, "created": 0.0}'
    (tmp_path / "run" / "nodes" / "learner.json").write_text(said)
    command.config("train", "--resume", "--workdir", "run")
    assert list((tmp_path / "run" / "nodes").iterdir()) == []


def test_help_lists_the_commands(command):
    for arguments in [[], ["--help"], ["-h"]]:
        with named(arguments):
            code, out, _ = command(*arguments)
            assert code == 0 and len(out.splitlines()) <= 24
            for name in ("train", "evaluate", "benchmark", "plot"):
                assert f"\n  {name} " in out


def test_help_of_a_command_shows_meaning_and_default(command):
    code, out, _ = command("train", "--help")
    assert code == 0
    text = " ".join(out.replace("│", " ").split())
    assert "Environment frames to train for" in text
    assert "(default: 2000000)" in text and "--agent.meta.matching" in text
    meaning = text[text.index("Atari ROM name") : text.index("docs/environments.md")]
    assert all(name in meaning for name in IN_GRAPH if "/" not in name), meaning
    for name in ("evaluate", "plot"):
        assert command(name, "--help")[0] == 0
    assert "pipeline" in command("benchmark")[1]


def test_plot_draws_and_tells_the_means(command, tmp_path, pictures):
    """Means over the second half of the frames, and the last value, of each run that has it."""
    for name, values in {"a": [1.0, 2.0, 4.0, 6.0], "b": [12_345.0]}.items():
        save_run(tmp_path / name)
        rows = [{"frames": 100 * i, "training/return": x} for i, x in enumerate(values)]
        text = "\n".join(map(json.dumps, rows)) + "\n{broken"
        (tmp_path / name / "metrics.jsonl").write_text(text)
    arguments = "plot --workdirs a b --output x.png --metrics".split()
    code, out, _ = command(*arguments, "training/return")
    assert code == 0
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    assert ["bmg, catch (a)", "1", "training/return", "300", "6", "5"] in cells
    assert ["bmg, catch (b)", "1", "training/return", "0", "12,345", "12,345"] in cells
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    (panel,) = pictures["x.png"]
    assert panel.title == "training/return"
    curves = {label: points.tolist() for label, points in panel.lines.items()}
    assert curves == {
        "bmg, catch (a)": [[0, 1], [100, 2], [200, 4], [300, 6]],
        "bmg, catch (b)": [[0, 12_345]],
    }
    code, _, err = command(*arguments, "meta/cosine")
    assert code == 2 and "no run has the metric 'meta/cosine'" in err


def completions(folder, typed: str) -> set[str]:
    """What bash offers where the cursor is at the end of what is typed."""
    words = typed.split(" ")
    program = (
        'eval "$(bmg completion bash)"\n'
        f"COMP_WORDS=({' '.join(map(shlex.quote, words))}) COMP_CWORD={len(words) - 1}\n"
        '_bmg; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = subprocess.run(
        ["bash", "-c", program], env={**commands.environment(), "PATH": path}, cwd=folder,
        capture_output=True, text=True, timeout=DEADLINE, check=True,
    )  # fmt: skip
    assert found.stderr == ""
    return set(found.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_shell_completes_commands_options_and_files(tmp_path):
    (tmp_path / "runs").mkdir()
    assert completions(tmp_path, "bmg t") == {"train", "two-colors"}
    assert completions(tmp_path, "bmg suite minatar f") == {"figures"}
    assert completions(tmp_path, "bmg benchmark in") >= {"in-graph", "inference"}
    found = completions(tmp_path, "bmg evaluate --v")
    assert found == {"--video", "--video-steps"}
    found = completions(tmp_path, "bmg train --game pong --agent.meta.")
    assert "--agent.meta.inner-steps" in found and "--game" not in found
    assert completions(tmp_path, "bmg plot --workdirs r") == {"runs"}


def test_an_unknown_shell_is_refused(command):
    assert "'fish'" in command.refused("completion", "fish")


def test_quiet_prints_errors_alone(command, tmp_path):
    save_run(tmp_path / "runs/a")
    assert command("runs")[1] != ""
    assert command("--quiet", "runs") == (0, "", "")
    code, out, err = command("--quiet", "runs", "nowhere")
    assert code == 2 and out == "" and len(err.splitlines()) == 1


HEAVY = ("jax", "launchpad", "tensorflow", "reverb", "numpy", "tyro", "ale_py", "haiku")


@pytest.mark.parametrize("arguments", [["--help"], [], ["trian"]])
def test_help_imports_nothing_heavy(arguments):
    program = (
        "import sys\n"
        f"sys.argv = ['bmg', *{arguments!r}]\n"
        "from bmg.launch.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=commands.ROOT,
        env=commands.environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_console_script_is_installed():
    """`bmg` is the command that all this is about, where the project is installed."""
    script = pathlib.Path(sys.executable).with_name("bmg")
    if not script.exists():
        pytest.skip("not installed in this environment")
    result = subprocess.run(
        [script, "trian"],
        env=commands.environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert result.returncode == 2 and "Did you mean train?" in result.stderr


def test_a_package_that_is_not_installed_is_named_with_the_remedy(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)  # as where only the core is installed
    line = command.refused("train", "--game", "catch")
    assert "tyro is not installed" in line and "bmg[all]" in line


def test_an_error_of_the_system_is_one_line(command, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device", "runs/catch/config.json")

    monkeypatch.setattr(train, "supervise", full)
    code, out, err = command("train", "--game", "catch")
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert "No space left" in err and "runs/catch/config.json" in err


def test_the_saved_configuration_survives_a_full_disk(small_disk, tmp_path):
    """Going on with a run on a full disk must not lose what the run was."""
    saved = save_run(small_disk / "run", frames=123_456)
    for folder in ("checkpoints", "logs", "nodes", "tensorboard"):
        (small_disk / "run" / folder).mkdir()
    with open(small_disk / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    code, _, err = commands.bmg("train", "--resume", "--workdir", small_disk / "run", cwd=tmp_path)
    assert code in (1, 2) and "No space left" in err
    assert load_config(small_disk / "run", TrainConfig) == saved


ROW = {
    "frames": 50_000, "learner/frames": 50_000, "learner/frames_per_second": 1_000.4,
    "learner/updates_per_second": 2.084, "policy_lag/mean": 3.26,
}  # fmt: skip


def test_the_live_line():
    assert console.progress_line(ROW, 200_000, 60.0) == (
        "50,000 of 200,000 frames (25 %) | 1,000 frames/s | 2.08 updates/s | lag 3.3 | 2 min left"
    )
    full = {
        **ROW,
        "training/return": -20.5,
        "evaluation/return": 14.6,
        "evaluation/human_normalized_score": 1.1956,
    }
    assert console.progress_line(full, 200_000, 60.0) == (
        "50,000 of 200,000 frames (25 %) | 1,000 frames/s | 2.08 updates/s | lag 3.3 | "
        "training -20.50 | evaluation 14.60 (120 % human) | 2 min left"
    )


def test_the_live_lines_fit_a_terminal():
    """Of 80 columns, also with large numbers; what is wrong comes last."""
    row = {
        "learner/frames": 123_456_789, "learner/frames_per_second": 22_345.6,
        "learner/updates_per_second": 2.084, "policy_lag/mean": 3.26,
        "training/return": -123_456.78, "evaluation/return": 123_456.78,
        "evaluation/human_normalized_score": 112.3, "nodes/restarts": 12.0,
        "learner/stalls": 0.0,
    }  # fmt: skip
    lines = console.live_lines(row, 200_000_000, 60.0).splitlines()
    assert lines == [
        "123,456,789 of 200,000,000 frames (62 %) | 22,346 frames/s | 57 min left",
        "training -123,457 | evaluation 123,457 (11230 % human) | 12 restarts of nodes",
    ]
    assert max(map(len, lines)) <= 80
    assert "22,346 frames/s x 8 seeds |" in console.live_lines(row, 200_000_000, 60.0, seeds=8)
    assert "22,346 frames/s x 8 seeds |" in console.progress_line(row, 200_000_000, 60.0, seeds=8)
    lines = console.live_lines(ROW | {"learner/skipped_updates": 2.0}, 200_000, 60.0).splitlines()
    assert lines[1] == "2 updates skipped (not finite)"
    assert console.live_lines(ROW, 200_000, 60.0).endswith("\nno episode has ended yet")
    assert console.live_lines({}, 100, 12.4) == console.progress_line({}, 100, 12.4)


def test_the_live_line_at_the_start_and_at_the_end():
    start = console.progress_line({}, 100, 12.4)
    assert start.startswith("starting") and "12 s" in start
    awaited = "not begun yet: actor_0"
    assert console.progress_line({}, 100, 9.0, 1, awaited).startswith("starting: ")
    slow = "starting for 75 s: not begun yet: actor_0"
    assert console.progress_line({}, 100, 75.2, 1, awaited) == slow
    assert console.live_lines({}, 100, 75.2, 1, awaited) == slow
    assert "not begun" not in console.progress_line(ROW, 200_000, 75.2, 1, awaited)
    # An evaluation alone tells nothing of the learner.
    assert console.progress_line({"evaluation/return": 1.0}, 100, 1.0).startswith("starting")
    done = console.progress_line({**ROW, "learner/frames": 100_080}, 100_000, 60.0)
    assert done.startswith("100,000 of 100,000 frames (100 %)") and "left" not in done
    stalled = {**ROW, "learner/frames_per_second": 0.0}
    assert "left" in console.progress_line(stalled, 200_000, 60.0)


DURATIONS = [
    (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (3_599, "59 min"), (3_600, "1 h 00 min"),
    (5 * 3_600 + 7 * 60 + 59, "5 h 07 min"),
]  # fmt: skip


def test_durations():
    for seconds, text in DURATIONS:
        with named(seconds):
            assert console.duration(seconds) == text


def test_the_console_shows_new_lines_alone(tmp_path, capsys):
    """Lines of an earlier stretch are not this one's; half a line waits for its other half."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({**ROW, "learner/frames": 1}) + "\n")
    shown = console.RunConsole(tmp_path, 200_000)
    shown.refresh()
    shown.close()
    assert capsys.readouterr().out == ""

    shown = console.RunConsole(tmp_path, 200_000)
    text = json.dumps(ROW) + "\n"
    with open(path, "a") as file:
        file.write(text[:30])
        file.flush()
        shown.refresh()
        file.write(text[30:])
    shown.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("50,000 of 200,000 frames") and line.endswith("left")


@pytest.mark.parametrize("arguments, kept", [
    ("few-shot --steps 3", True), ("benchmark few-shot", True), ("lpg", True),
    ("train --game pong", True), ("suite minatar", True), ("two-colors", False),
    ("benchmark impala", False), ("snake", False),
    ("benchmark", False), ("", False),
])  # fmt: skip
def test_memory_is_kept_where_arrays_are_large(arguments, kept):
    assert cli._has_large_arrays(arguments.split()) is kept
