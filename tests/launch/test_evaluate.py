"""`bmg evaluate` plays with the newest checkpoint that a learner can have written, and no other."""

from __future__ import annotations

import io
import json
import warnings

import imageio_ffmpeg
import jax
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from bmg.actors.rollout import agent_spec
from bmg.agents.factory import make_agent
from bmg.environments.factory import make, make_spec
from bmg.launch import video
from bmg.launch.album import groups_of
from bmg.launch.config import fixed_fields
from bmg.launch.evaluate import meta_parameters
from bmg.launch.presets import PRESETS
from bmg.learner.guard import guarded
from bmg.learner.progress import Progress
from bmg.learner.update import frames_per_update
from bmg.storage import checkpoint, files
from bmg.storage.run_directory import config_file, to_dict
from tests.learner import fakes


class Saved:
    """A run of Catch, and checkpoints that a learner may have left in it."""

    def __init__(self, folder):
        self.config = config = PRESETS["local"]("catch")
        folder.mkdir()
        config_file(folder).write_text(json.dumps(to_dict(config)))
        self.spec = make_spec(config.game, config.atari)
        self.agent = make_agent(config.agent, agent_spec(self.spec))
        whole = guarded(self.agent, 1)
        self.state = jax.tree.map(np.asarray, whole.init(jax.random.PRNGKey(0)))
        self.folder = folder / "checkpoints"

    def frames(self, number: int) -> int:
        return number * frames_per_update(self.config.learner, self.spec.action_repeat)

    def save(self, number: int, state, **changes):
        state = state._replace(updates=np.int32(number))
        header = {
            **Progress().header(),
            "updates": number,
            "frames": self.frames(number),
            "game": "catch",
            "identity": fixed_fields(self.config),
            **changes,
        }
        return checkpoint.save(self.folder, number, state, header, keep=9)


@pytest.fixture
def saved(tmp_path) -> Saved:
    return Saved(tmp_path / "run")


@pytest.mark.usefixtures("quick_compilation")
def test_the_newest_that_can_be_used_is_evaluated(command, tmp_path, saved):
    save, state, folder = saved.save, saved.state, saved.folder

    def evaluated() -> tuple[list[str], dict]:
        code, out, err = command("evaluate", "--workdir", "run", "--episodes", "3")
        assert code == 0 and not err
        problems, brace, result = out.partition("{")
        return problems.splitlines(), json.loads(brace + result)

    save(4, state)
    problems, expected = evaluated()
    assert problems == [] and expected["updates"] == 4 and len(expected["returns"]) == 3
    nan = state._replace(agent=jax.tree.map(lambda x: np.full_like(x, np.nan), state.agent))
    lies = [
        save(5, state, frames=7), save(6, nan), save(7, state, updates="\x1b[2J\n" * 999),
        save(8, state, identity={"game": "\x1b]0;pong\x07"}),
    ]  # fmt: skip
    (folder / "checkpoint_0000000009.npz").mkdir()
    problems, result = evaluated()
    assert result == expected
    assert len(problems) == 4 and all(x.isprintable() and len(x) < 500 for x in problems)
    assert all(str(path.name) in problem for path, problem in zip(reversed(lies), problems))

    # A run that cannot be written to has its score as well, and a line about the file.
    (tmp_path / "run/evaluation.json").unlink()
    (tmp_path / "run/evaluation.json").mkdir()
    code, out, err = command("evaluate", "--workdir", "run", "--episodes", "3")
    assert code == 2 and json.loads("{" + out.partition("{")[2]) == expected
    assert len(err.splitlines()) == 1 and "evaluation.json" in err

    for path in folder.glob("*[!9].npz"):
        if path not in lies[:2]:
            path.unlink()
    line = command.refused("evaluate", "--workdir", "run")
    assert lies[1].name in line and "not finite" in line
    fakes.assert_same(checkpoint.load(lies[1], nan).state.agent, nan.agent)


def pictures_of(path) -> list[np.ndarray]:
    """The pictures of an animation, uint8 [H, W, 3]."""
    if path.suffix == ".mp4":
        frames = imageio_ffmpeg.read_frames(str(path))
        width, height = next(frames)["size"]
        return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames]
    with Image.open(path) as animation:
        found = []
        for index in range(animation.n_frames):
            animation.seek(index)
            found.append(np.asarray(animation.convert("RGB")))
        return found


@pytest.mark.usefixtures("quick_compilation")
def test_an_episode_as_an_animation(command, saved, tmp_path):
    """Nine steps of Catch; the screen is what the agent saw, ten rows of five pixels."""
    saved.save(4, saved.state)
    rows = [
        {"frames": saved.frames(4), "meta_main/discount": 0.875, "meta_main/discount_logit": 2.0},
        {"frames": saved.frames(5), "meta_main/discount": 0.5},  # beyond the checkpoint
    ]
    (tmp_path / "run/metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert meta_parameters(tmp_path / "run", saved.frames(4)) == {"discount": 0.875}
    options = "evaluate --workdir run --episodes 1 --video".split()
    for name in ("new/a.gif", "a.webp", "a.png", "b/a.mp4"):
        code, out, err = command(*options, name)
        assert code == 0 and err == "" and out.splitlines()[-1] == name
        pictures = pictures_of(tmp_path / name)
        assert len(pictures) == 9
        screens = [picture[:, :160][16::32, 16::32].mean(-1) > 128 for picture in pictures]
        assert all(screen.shape == (10, 5) for screen in screens)
        for row, screen in enumerate(screens[:-1]):  # the ball falls, the paddle stays below
            assert screen[row].any() and screen[-1].any() and screen.sum() == 2
        assert len({picture.tobytes() for picture in pictures}) == 9
    assert len(pictures_of_steps(command, tmp_path, options, 4)) == 4
    assert "'.mpg'; there are .mp4, .gif, .webp, .png" in command.refused(*options, "a.mpg")
    code, _, err = command(*options, "run/config.json/x.gif")
    assert code == 2 and len(err.splitlines()) == 1
    assert "no animation at run/config.json/x.gif" in err and "another --video" in err
    (tmp_path / "a.mp4").mkdir()
    code, _, err = command(*options, "a.mp4")
    assert code == 2 and "no animation at a.mp4" in err


def pictures_of_steps(command, tmp_path, options, steps):
    assert command(*options, "short.gif", "--video-steps", steps)[0] == 0
    return pictures_of(tmp_path / "short.gif")


def test_what_an_agent_thinks_is_told(saved):
    """Probabilities and value are the network's, for what it saw."""
    games = make("catch", 1, 5, 0, saved.config.atari, 1)
    params = saved.agent.acting_params(saved.state.agent)
    moments = list(video.play(games, saved.agent, params, jax.random.PRNGKey(2), 30))
    assert len(moments) == 9 and all(moment.episode_return == 0 for moment in moments)
    for moment in moments:
        frame = moment.frame[None]
        _, logits = saved.agent.act(params, frame, np.zeros((1, 2), np.uint32))
        np.testing.assert_allclose(moment.probabilities, jax.nn.softmax(logits[0]), atol=1e-5)
        np.testing.assert_allclose(moment.value, saved.agent.value(params, frame)[0], atol=1e-5)
        assert 0 <= moment.action < 3


def test_all_lines_are_in_the_picture():
    """However many actions and facts there are; they begin where the screen's own height ends."""
    frame, facts = np.zeros((4, 4, 1), np.uint8), {f"fact_{i}": float(i) for i in range(8)}
    heights = []
    for actions in (2, 9, 18):
        moment = video.Moment(frame, np.full(actions, 1 / actions), 0, 0.5, 0.0)
        whole = np.asarray(video.picture(moment, 0, "title", facts))
        green = np.all(whole[:, 320:] == (150, 200, 150), axis=-1).any(axis=1)
        lines = np.count_nonzero(np.diff(np.flatnonzero(green)) > 5) + 1
        assert lines == len(facts) and not green[-4:].any()
        heights.append(len(whole))
    assert heights[0] == 320 < heights[1] == heights[2], "the likeliest nine alone have a bar"


def test_a_child_process_that_encodes_is_no_warning(tmp_path, monkeypatch, recwarn):
    """JAX warns of any."""

    def write_frames(*_, **__):
        warnings.warn("os.fork() was called. JAX is multithreaded.", RuntimeWarning, stacklevel=1)
        warnings.warn("another", RuntimeWarning, stacklevel=1)
        yield
        yield

    monkeypatch.setattr("imageio_ffmpeg.write_frames", write_frames)
    moment = video.Moment(np.zeros((4, 4, 1), np.uint8), np.ones(1), 0, None, 0.0)
    video.write(tmp_path / "a.mp4", [moment], "title", {})
    assert [str(each.message) for each in recwarn] == ["another"]


def test_screens_of_any_kind():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    np.testing.assert_array_equal(video.screen_of(grey), np.repeat(grey, 3, -1))
    colors = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(video.screen_of(colors), colors)
    vector = video.screen_of(np.array([-1.0, 0.0, 3.0], np.float32))
    np.testing.assert_array_equal(vector[0, :, 0], [0, 64, 255])
    planes = 255 * np.eye(6, dtype=np.uint8).reshape(2, 3, 6)
    shown = video.screen_of(planes)
    assert shown.shape == (2, 3, 3) and len({tuple(x) for x in shown.reshape(6, 3)}) == 6
    np.testing.assert_array_equal(video.screen_of(np.zeros((2, 3, 6), np.float32)), 0)


def assert_album(folder, saved):
    """TensorBoard has three pictures of each of two episodes, the probabilities of their actions,
    and that nothing moved between them."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    steps = [saved.frames(number) for number in (4, 6)]
    found = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}
    assert [event.step for event in found["episode"]] == steps
    for event in found["episode"]:
        width, height, *shown = event.tensor_proto.string_val
        assert len(shown) == 3
        for each in shown:
            with Image.open(io.BytesIO(each)) as picture:
                assert picture.size == (int(width), int(height))
    for event in found["action_probabilities"]:
        left, right, count = make_ndarray(event.tensor_proto).T
        assert count.sum() == 3 * 3 and left.min() >= 0 and right.max() <= 1
    changes = [tag for tag in found if tag.startswith("change/")]
    names = groups_of(saved.agent.acting_params(saved.state.agent))
    assert sorted(changes) == sorted(f"change/{name}" for name in names) and len(changes) > 1
    for tag in changes:
        ((step, histogram),) = [(x.step, make_ndarray(x.tensor_proto)) for x in found[tag]]
        assert step == steps[1]
        nowhere = (histogram[:, 0] <= 0) & (histogram[:, 1] >= 0)
        assert histogram[nowhere, 2].sum() == histogram[:, 2].sum() > 0


@pytest.mark.usefixtures("quick_compilation")
def test_a_run_is_watched_until_it_ends(command, saved, tmp_path, monkeypatch):
    """It waits for the first checkpoint, draws each newer one once, and ends with the run."""
    looks = iter([True, True, True, True, False])
    steps = iter([None, 4, None, 6, None])

    def is_owned(folder):
        running = next(looks)
        if (number := next(steps)) is not None:
            saved.save(number, saved.state)
        return running

    monkeypatch.setattr(files, "is_owned", is_owned)
    options = "watch --workdir run --interval 0.01 --steps 3".split()
    code, out, err = command(*options)
    assert code == 0 and err == ""
    names = [f"run/videos/frames-{saved.frames(number):012d}.gif" for number in (4, 6)]
    assert out.splitlines() == ["waiting for the first checkpoint in run", *names]
    assert all(len(pictures_of(tmp_path / name)) == 3 for name in names)
    assert_album(tmp_path / "run/tensorboard/album", saved)
    for path in saved.folder.iterdir():
        path.unlink()
    monkeypatch.setattr(files, "is_owned", lambda folder: False)
    assert "no checkpoint" in command.refused(*options)
