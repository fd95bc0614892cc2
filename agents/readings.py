"""How large a meta-gradient is under each reading of what BMG's Table 2 leaves open.

The paper says neither whether losses and matching functions are sums or means over the batch, nor
where RMSProp's epsilon stands, nor whether the Euclidean distance is squared. Its Table 3 has the
variance of the meta-gradient and a ratio of norm and variance for four meta-objectives. Here the
same is measured at one set of parameters, on frozen batches: second moments of the agent's
optimiser are those that the reading itself gives on these batches.

Reference: Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, Tables 2 and 3.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bmg.agents.agent import Agent, Spec
from bmg.agents.config import AgentConfig, Reading
from bmg.agents.factory import make_agent
from bmg.agents.stacx import StacxState
from bmg.agents.trajectory import UpdateBatch

OBJECTIVES = ("kl", "kl_value", "l2", "l2_norm", "stacx")  # of Table 3, both readings of L2


_REDUCTIONS = ("mean", "sum")
READINGS = tuple(
    Reading(*choice) for choice in itertools.product(_REDUCTIONS, _REDUCTIONS, (True, False))
)


class Size(NamedTuple):
    """Of the meta-gradients of one objective under one reading, over batches."""

    norm: float  # mean
    variance: float  # trace of the covariance
    cosine: float  # mean, of consecutive ones
    step_share: float  # of Adam's whole steps, of the largest meta-parameter
    gradient_norm: float  # of the agent's own gradient, before clipping; mean


def measure(
    config: AgentConfig,
    spec: Spec,
    state: StacxState,
    batches: Sequence[UpdateBatch],
    report: Callable[[str], None] = lambda what: None,
    among: Sequence[Reading] = READINGS,
) -> dict[tuple[Reading, str], Size]:
    """The sizes under each reading.

    Args:
      config: the agent as Table 2 has it, with the network of `state`; K = L = 1.
      spec: what the agent is made for.
      state: of STACX or BMG.
      batches: at least two; as an update takes them, without extra ones.
      report: takes a line about what is measured next.
      among: the readings to measure.

    Returns:
      (reading, objective) -> size.
    """
    found = {}
    for loss, in_root in dict.fromkeys((r.loss, r.epsilon_in_root) for r in among):
        base = dataclasses.replace(
            config,
            loss=dataclasses.replace(config.loss, reduction=loss),
            optimizer=dataclasses.replace(config.optimizer, epsilon_in_root=in_root),
        )
        moments = None
        for objective in ("stacx", "kl", "kl_value", "l2"):
            report(f"{objective}: loss {loss}, epsilon {'in' if in_root else 'outside'}")
            update = _update(make_agent(_with(base, objective), spec))
            if moments is None:
                moments = _second_moments(update, state, batches, config.optimizer.decay)
            outcomes = [update(_replaced(state, moments), batch) for batch in batches]
            gradients = np.stack([_flat(new.meta.gradient) for new, _ in outcomes])
            losses = np.array([float(x.get("meta/matching_loss", 0.0)) for _, x in outcomes])
            norms = np.mean([float(x["learner/gradient_norm"]) for _, x in outcomes])
            states = batches[0].online.action.size + batches[0].replay.action.size
            states += len(batches[0].online.action) + len(batches[0].replay.action)
            for reduction in _REDUCTIONS:
                reading = Reading(loss, reduction, in_root)
                if reading not in among:
                    continue
                # Sums are as many times the mean; the root's slope is the square's over two roots.
                factor = states if reduction == "sum" and objective.startswith("kl") else 1
                epsilon = config.meta.epsilon
                found[reading, objective] = _size(factor * gradients, norms, epsilon)
                if objective == "l2":
                    roots = 2 * np.sqrt(np.maximum(losses, 1e-30))[:, None]
                    found[reading, "l2_norm"] = _size(gradients / roots, norms, epsilon)
    return found


def _with(config: AgentConfig, objective: str) -> AgentConfig:
    if objective == "stacx":
        return dataclasses.replace(config, algorithm="stacx")
    meta = dataclasses.replace(config.meta, matching=objective, matching_reduction="mean")
    return dataclasses.replace(config, algorithm="bmg", meta=meta)


def _update(agent: Agent) -> Callable:
    """(state, batch) -> (state, metrics), at the start of the schedules."""
    return jax.jit(lambda state, batch: agent.update(state, batch, 0.0, jax.random.PRNGKey(0)))


def _replaced(state: StacxState, moments) -> StacxState:
    opt_state = optax.tree.set(state.inner.opt_state, nu=moments)
    return state._replace(inner=state.inner._replace(opt_state=opt_state))


def _second_moments(update, state: StacxState, batches, decay: float):
    """Means of the clipped gradients' squares: where the moving average settles."""
    none = jax.tree.map(jnp.zeros_like, optax.tree.get(state.inner.opt_state, "nu"))
    total = none
    for batch in batches:
        new, _ = update(_replaced(state, none), batch)
        square = optax.tree.get(new.inner.opt_state, "nu")  # (1 - decay) g^2
        total = jax.tree.map(lambda a, b: a + b / (1.0 - decay) / len(batches), total, square)
    return total


def _flat(gradient) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(gradient)])


def _size(gradients: np.ndarray, gradient_norm: float, epsilon: float) -> Size:
    """Of [batches, meta-parameters]."""
    norms = np.linalg.norm(gradients, axis=1)
    products = np.sum(gradients[1:] * gradients[:-1], axis=1)
    pairs = norms[1:] * norms[:-1]
    cosines = np.divide(products, pairs, out=np.zeros_like(products), where=pairs > 0)
    root = float(np.sqrt(np.max(np.mean(gradients**2, axis=0))))
    return Size(
        norm=float(np.mean(norms)),
        variance=float(np.sum(np.var(gradients, axis=0, ddof=1))),
        cosine=float(np.mean(cosines)),
        step_share=root / (root + epsilon),
        gradient_norm=float(gradient_norm),
    )
