"""What TensorBoard shows of a checkpoint: pictures of an episode, how sure the policy is, and how
far parameters have moved."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.image import metadata as image
from tensorboard.util.tensor_util import make_tensor_proto

from bmg.launch.video import Moment, picture
from bmg.learner.metrics import EventWriter

_PICTURES = 6  # of an episode
_FOLDER = "album"  # beside the learner's events, which TensorBoard reads for themselves


class Album:
    """Event files of a run, in a folder of their own."""

    def __init__(self, tensorboard: pathlib.Path, step: int):
        """What stands beyond `step` is taken out.

        Args:
          tensorboard: the run's folder of events.
          step: of the first checkpoint, frames.
        """
        self._events = EventWriter(tensorboard / _FOLDER, step, {})
        self._before: dict[str, np.ndarray] | None = None

    def add(
        self,
        step: int,
        moments: Sequence[Moment],
        title: str,
        facts: Mapping[str, float],
        params: Any,
    ) -> None:
        """Shows a checkpoint.

        Args:
          step: frames.
          moments: an episode.
          title: of its pictures.
          facts: numbers beside it.
          params: that it was played with.

        Raises:
          OSError: the disk is full.
        """
        last = len(moments) - 1
        numbers = sorted({round(x) for x in np.linspace(0, last, min(_PICTURES, last + 1))})
        shown = [picture(moments[number], number, title, facts) for number in numbers]
        probabilities = np.concatenate([moment.probabilities for moment in moments])
        summaries = [
            _pictures("episode", shown, "Moments of an episode."),
            histogram_pb(
                "action_probabilities", probabilities,
                description="Of all actions at all steps of the episode.",
            ),
        ]  # fmt: skip
        now = groups_of(params)
        for name, values in (now if self._before is not None else {}).items():
            text = "How far each parameter has moved since the picture before."
            change = values - self._before[name]
            summaries.append(histogram_pb(f"change/{name}", change, description=text))
        self._before = now
        for summary in summaries:
            self._events.add(step, summary)

    def close(self) -> None:
        """Closes the file."""
        self._events.close()


def groups_of(params: Any) -> dict[str, np.ndarray]:
    """Parameters of each module, or of the first level of another tree: name -> numbers, [n]."""
    import jax

    groups: dict[str, list[np.ndarray]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        first = path[0] if path else "all"
        name = str(getattr(first, "key", getattr(first, "name", getattr(first, "idx", first))))
        groups.setdefault(name, []).append(np.ravel(np.asarray(leaf, np.float32)))
    return {name: np.concatenate(leaves) for name, leaves in groups.items()}


def _pictures(tag: str, shown: Sequence[Any], description: str) -> Summary:
    """Of Pillow, side by side in TensorBoard."""
    encoded = []
    for each in shown:
        file = io.BytesIO()
        each.save(file, "PNG")
        encoded.append(file.getvalue())
    size = [str(side).encode() for side in shown[0].size]
    metadata = image.create_summary_metadata("", description)
    tensor = make_tensor_proto([*size, *encoded])
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])
