"""IMPALA: one task, fixed hyper-parameters, nothing is meta-learned.

Reference: Espeholt et al., "IMPALA", ICML 2018 (https://arxiv.org/abs/1802.01561).
"""

from __future__ import annotations

import jax

from bmg.agents.config import LossConfig
from bmg.agents.losses import Hyperparameters, outer_hyperparameters


def fixed_hyperparameters(config: LossConfig):
    """The hyper-parameters p for every meta-parameter: [1] of each, the main task's."""
    outer: Hyperparameters = jax.tree.map(lambda x: x[None], outer_hyperparameters(config))
    return lambda meta_params: outer
