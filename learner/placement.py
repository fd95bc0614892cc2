"""Which of a host's devices learn, and which act."""

from __future__ import annotations

from typing import NamedTuple

import jax

from bmg.learner.config import DevicesConfig


class Devices(NamedTuple):
    """Who has which."""

    learner: list[jax.Device]  # of all hosts, host by host, as many on each
    inference: list[jax.Device]  # of this host; may be its learner's; empty where actors act alone


class Split(NamedTuple):
    """How many of them; with one device alone, it does both."""

    learner: int
    inference: int


def local_devices(platform: str) -> list[jax.Device]:
    """This host's devices of a platform; of the best there is if it is empty.

    Raises:
      ValueError: there is none, or JAX cannot use the best one; one line.
    """
    try:
        return jax.local_devices(backend=platform or None)
    except RuntimeError as error:
        if not platform:  # asked once more, JAX would give the CPU
            raise ValueError(
                f"{error} Is its memory full, or does another process hold it?"
            ) from None
        there = ", ".join(sorted({device.platform for device in jax.local_devices()}))
        raise ValueError(
            f"no {platform!r} device here; there is {there}. Change --learner.platform, or "
            "install the accelerator's extra (cuda or tpu)."
        ) from None


def split(config: DevicesConfig, there: int, platform: str, central_inference: bool) -> Split:
    """Shares `there` devices out.

    Args:
      config: what is wanted.
      there: how many there are.
      platform: what they are, for the message.
      central_inference: whether there is an inference server.

    Raises:
      ValueError: more are wanted than there are; one line.
    """
    if config.inference and not central_inference:
        raise ValueError(
            "--devices.inference is for the inference server; give --actors.inference server."
        )
    learner, inference = config.learner, config.inference
    if central_inference and there == 1 and learner <= 1 and inference <= 1:
        return Split(1, 1)
    if central_inference and not inference:
        inference = max(1, there - learner if learner else there // 4)
    learner = learner or max(1, there - inference)
    if learner + inference > there:
        acting = f" and {inference} for inference" if inference else ""
        raise ValueError(
            f"{learner} devices wanted for the learner{acting}, {there} there ({platform}); lower "
            f"--devices.learner{' or --devices.inference' if inference else ''}."
        )
    return Split(learner, inference)


def place(config: DevicesConfig, platform: str, central_inference: bool) -> Devices:
    """Picks devices: on every host the first ones learn and the next ones act.

    Raises:
      ValueError: see `local_devices` and `split`.
    """
    here = local_devices(platform)
    learner, inference = split(config, len(here), here[0].platform, central_inference)
    learning = [
        device
        for host in range(jax.process_count())
        for device in jax.local_devices(process_index=host, backend=here[0].platform)[:learner]
    ]
    first = learner if learner + inference <= len(here) else 0
    return Devices(learning, here[first : first + inference])
