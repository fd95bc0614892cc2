"""The actor's loop: newest parameters, one unroll of every environment, write, report."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax

from bmg.actors.inference import AskedToStop, Inference
from bmg.actors.rollout import Rollout
from bmg.agents.trajectory import Trajectory


def run_actor(
    rollout: Rollout,
    inference: Inference,
    append: Callable[[Trajectory], bool],
    report: Callable[[dict[str, float]], None],
    should_stop: Callable[[], bool],
    report_interval: float,
) -> None:
    """Streams unrolls until asked to stop.

    Args:
      rollout: the environments, acting by `inference.ask`.
      inference: who chooses the actions.
      append: writes one environment's unroll; blocks while the learner is slow, False to stop.
      report: takes the share of time spent in each activity, and steps per second.
      should_stop: polled between unrolls.
      report_interval: seconds between reports; the first unroll is reported at once.
    """
    last_report, steps, writing = time.monotonic(), 0, 0.0
    reported = False
    while not should_stop():
        try:
            newest = inference.newest(should_stop)
            if newest is None:
                return
            if newest.final:  # nothing more is learned; leave the cores to the last evaluation
                time.sleep(0.2)
                continue
            unrolls = rollout.collect(newest.version, time.monotonic)
        except AskedToStop:
            return
        start = time.monotonic()
        num_envs, length = unrolls.action.shape
        for index in range(num_envs):
            if not append(jax.tree.map(lambda x: x[index], unrolls)):
                return
        now = time.monotonic()
        writing += now - start
        steps += num_envs * length
        elapsed = now - last_report
        if elapsed >= report_interval or not reported:
            shares = {name: seconds / elapsed for name, seconds in rollout.seconds.items()}
            report(
                {
                    **shares,
                    "writing": writing / elapsed,
                    "steps_per_second": steps / elapsed,
                    "not_finite_rewards": float(rollout.not_finite_rewards),
                }
            )
            reported = True
            last_report, steps, writing = now, 0, 0.0
            rollout.seconds = dict.fromkeys(rollout.seconds, 0.0)
