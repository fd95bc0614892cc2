"""Configuration of actors and evaluators."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from bmg.storage.fields import Environments, Few, Nodes, Pause, Seconds, Threads, check_fields


@dataclasses.dataclass(frozen=True)
class ActorConfig:
    """The processes that stream unrolls. Defaults are BMG App. C.4: 48 environments."""

    num_actors: Nodes = 8
    """Actor processes. The paper gives 48 environments on 2 accelerator cores."""
    envs_per_actor: Environments = 6
    """Environments of each actor, stepped as one C++ vector and acted on as one batch."""
    env_threads: Threads = 1
    """Threads that step one actor's environments."""
    inference: Literal["auto", "actor", "server"] = "auto"
    """Who chooses the actions. actor: each actor for itself, on its CPU core. server: the learner's
    process, in one batch for all actors of the host, on devices of its own where there are several
    (--devices.inference). auto: server where there is an accelerator. Unread by the runtime of
    threads, which always batches. Ours."""
    splits: Environments = 2
    """Splits of an actor's environments under the inference server: one steps while the others wait
    for their actions (2: double buffering). Unread where actors choose their actions. Ours."""
    patience: Pause = 0.02
    """Seconds that a request to the inference server waits at most for those of other actors, to
    make up a batch. Ours."""
    parameter_interval: Pause = 0.5
    """Seconds between an actor's looks for newer parameters; unread by the runtime of threads,
    which acts with the newest at every step. Ours."""
    parameter_timeout: Seconds = 600.0
    """Seconds an actor or an evaluator waits for its first parameters before it gives up; longer
    than the learner takes to start. Ours."""
    report_interval: Pause = 5.0
    """Seconds between an actor's reports of where its time goes. Ours."""
    FORMER_NAMES: ClassVar[dict[str, str]] = {"parts": "splits"}

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class EvaluatorConfig:
    """The processes that play full episodes. The paper scores training episodes alone; a separate
    evaluator with the same no-op starts and raw rewards is ours."""

    num_evaluators: Few = 1
    """Evaluator processes; 0 for none."""
    episodes: Environments = 10
    """Episodes of one evaluation, played side by side."""
    interval: Pause = 300.0
    """Seconds from the end of one evaluation to the start of the next; the last one, of the final
    parameters, always runs."""
    final_timeout: Pause = 900.0
    """Seconds that the end of a run waits for the last evaluation at most."""

    def __post_init__(self):
        check_fields(self)
