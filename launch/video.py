"""An episode as an animation: the screen, and beside it what the agent thinks."""

from __future__ import annotations

import math
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

KINDS = (".mp4", ".gif", ".webp", ".png")  # all of them animated
_HEIGHT = 320  # pixels of the screen, and of a picture whose lines are not more than it holds
_PANEL = 300  # pixels beside it
_LINE = 18  # pixels of a line of text
_TOP, _GAP = 8, _LINE // 3  # pixels above the lines, and between groups of them
_COLORS = 128  # of a GIF
_PALETTE_OF = 24  # pictures that its palette is chosen from
_MOST_ACTIONS = 9  # that have a bar; of more, the likeliest ones


class Moment(NamedTuple):
    """One step of one environment."""

    frame: np.ndarray  # uint8 or float32 [H, W, C] or [D], what the agent or a person sees
    probabilities: np.ndarray  # float [A], of the policy
    action: int
    value: float | None  # what the agent expects
    episode_return: float  # so far
    names: Sequence[str] = ()  # of the actions; empty for numbers


def play(
    environment, agent, params, key, most_steps: int, screen=None, names: Sequence[str] = ()
) -> Iterator[Moment]:
    """The first episode of a single environment, or its first steps.

    Args:
      environment: a `base.VectorEnvironment` of one; it is reset here.
      agent: who acts.
      params: that it acts by.
      key: random key; actions are drawn, as in training.
      most_steps: after which it ends.
      screen: an `environments.screens.Screen` that is to follow; None for none.
      names: of the actions, for the moments.
    """
    import jax

    from bmg.actors.rollout import FrameStack

    act = jax.jit(agent.act)
    value_of = jax.jit(agent.value) if agent.value else None
    stack = FrameStack(1, environment.spec)
    step = environment.reset()
    if screen:
        screen.reset()
    total = 0.0
    for _ in range(most_steps):
        stack.push(step)
        key, own = np.asarray(jax.random.split(key))
        actions, logits = act(params, stack.stack, own[None])
        yield Moment(
            step.frame[0].copy(),
            np.asarray(jax.nn.softmax(logits[0])),
            int(actions[0]),
            float(value_of(params, stack.stack)[0]) if value_of else None,
            total,
            names,
        )
        step = environment.step(np.asarray(actions))
        if screen:
            screen.follow(np.asarray(actions), step)
        total += float(step.reward[0])
        if step.first[0]:
            return


def write(
    path: pathlib.Path,
    moments: Sequence[Moment],
    title: str,
    facts: Mapping[str, float],
    frames_per_second: float = 15.0,
) -> None:
    """Draws an animation.

    Args:
      path: what it ends in is one of `KINDS`.
      moments: at least one.
      title: of all pictures.
      facts: numbers that stay what they are, as meta-parameters.
      frames_per_second: of the animation.

    Raises:
      OSError: it cannot be written.
    """
    pictures = [picture(moment, number, title, facts) for number, moment in enumerate(moments)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".mp4":
        _encode(path, pictures, frames_per_second)
        return
    if path.suffix.lower() == ".gif":
        pictures = _in_few_colors(pictures)
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], loop=0,
        duration=round(1_000 / frames_per_second),
    )  # fmt: skip


def _encode(path: pathlib.Path, pictures: list, frames_per_second: float) -> None:
    """As H.264, whose pictures have an even number of pixels each way."""
    import imageio_ffmpeg
    from PIL import Image

    path.open("ab").close()  # the encoder would not say what is wrong with the path
    size = tuple(side + side % 2 for side in pictures[0].size)
    writer = imageio_ffmpeg.write_frames(str(path), size, fps=frames_per_second, macro_block_size=2)
    with warnings.catch_warnings():
        # JAX's, of any child process: this one begins another program at once.
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        writer.send(None)
    for picture in pictures:
        whole = Image.new("RGB", size)
        whole.paste(picture)
        writer.send(whole.tobytes())
    writer.close()


def _in_few_colors(pictures: list) -> list:
    """With one palette, so that a GIF holds of each picture what changed, and without dots."""
    from PIL import Image

    shown = pictures[:: max(len(pictures) // _PALETTE_OF, 1)]
    whole = Image.new("RGB", (shown[0].width, shown[0].height * len(shown)))
    for index, picture in enumerate(shown):
        whole.paste(picture, (0, index * picture.height))
    palette = whole.quantize(_COLORS, dither=Image.Dither.NONE)
    return [x.quantize(palette=palette, dither=Image.Dither.NONE) for x in pictures]


def picture(moment: Moment, number: int, title: str, facts: Mapping[str, float]):
    """A picture (of Pillow) of a moment: the screen, and beside it what the agent thinks.

    Args:
      moment: one step.
      number: of the step.
      title: above all.
      facts: name -> number, below.
    """
    from PIL import Image, ImageDraw, ImageFont

    shown = np.sort(np.argsort(-moment.probabilities, kind="stable")[:_MOST_ACTIONS])
    lines = 2 + (moment.value is not None) + len(shown) + len(facts)
    height = max(_HEIGHT, 2 * _TOP + lines * _LINE + 2 * _GAP)
    screen = Image.fromarray(screen_of(moment.frame))
    width = max(round(screen.width * _HEIGHT / screen.height), 1)
    whole = Image.new("RGB", (min(width, 2 * _HEIGHT) + _PANEL, height), (24, 24, 28))
    screen = screen.resize((min(width, 2 * _HEIGHT), _HEIGHT), Image.Resampling.NEAREST)
    whole.paste(screen, (0, 0))
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(size=13)
    left, y = screen.width + 12, _TOP

    def line(text: str, color=(220, 220, 220)) -> None:
        nonlocal y
        pen.text((left, y), text, fill=color, font=font)
        y += _LINE

    line(title, (255, 255, 255))
    line(f"step {number}   return {moment.episode_return:.4g}")
    if moment.value is not None:
        line(f"value {moment.value:.3f}")
    y += _GAP
    names = moment.names or [f"action {action}" for action in range(len(moment.probabilities))]
    indent = 14 + math.ceil(max(font.getlength(names[action]) for action in shown))
    for action in shown:
        chosen = action == moment.action
        color = (255, 170, 60) if chosen else (110, 140, 190)
        length = round(float(moment.probabilities[action]) * (_PANEL - indent - 48))
        pen.rectangle((left + indent, y + 3, left + indent + length, y + _LINE - 4), fill=color)
        line(names[action], color if chosen else (220, 220, 220))
    y += _GAP
    for name, number_ in facts.items():
        line(f"{name} {number_:.5g}", (150, 200, 150))
    return whole


def screen_of(frame: np.ndarray) -> np.ndarray:
    """A picture uint8 [H, W, 3] of what an agent sees: grey or colours as they are, other planes in
    a colour each, a vector as a row of grey cells."""
    if frame.ndim == 1:
        frame = frame[None, :, None]
    if frame.dtype != np.uint8:
        low, high = float(frame.min()), float(frame.max())
        frame = np.round(255 * (frame - low) / max(high - low, 1e-9)).astype(np.uint8)
    channels = frame.shape[-1]
    if channels == 1:
        return np.repeat(frame, 3, axis=-1)
    if channels == 3:
        return frame
    angles = 2 * np.pi * np.arange(channels)[:, None] / channels
    colors = 0.5 + 0.5 * np.cos(angles + 2 * np.pi * np.array([0, 1, 2]) / 3)  # [C, 3]
    mixed = np.max(frame[..., None] * colors, axis=-2)
    return np.round(mixed).astype(np.uint8)
