"""How well new classes are learned from an initialisation: accuracy over many tasks.

Reference: Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, appendix D.2: 10 steps.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bmg.experiments.few_shot.adaptation import Examples, accuracy, make_adaptation
from bmg.experiments.few_shot.config import FewShotConfig
from bmg.experiments.few_shot.network import Params, make_network
from bmg.experiments.few_shot.tasks import sample_task
from bmg.experiments.lifetime import gathered, share
from bmg.meta.core import scan

_NORMAL = 1.96  # standard deviations of the mean in half of a 95 % interval


class Accuracy(NamedTuple):
    """Of the query sets of many tasks, after learning from their support sets."""

    mean: jax.Array  # []
    half_width: jax.Array  # [] of the mean's 95 % interval
    of_tasks: jax.Array  # float32 [tasks]


def meta_test(
    params: Params,
    images: jax.Array,
    key: jax.Array,
    config: FewShotConfig,
    axis_name: str | None = None,
) -> Accuracy:
    """Learns each of `evaluation_tasks` tasks in `evaluation_steps` steps.

    Args:
      params: the initialisation.
      images: uint8 [classes, images of a class, H, W, C] that the tasks are drawn from.
      key: random key; the same one gives the same tasks.
      config: of the experiment.
      axis_name: of the devices that share the tasks; None for this one alone.
    """
    config = config.settled(jax.default_backend())
    network = make_network(
        images.shape[2:], config.ways, config.filters, config.evaluation_convolution
    )
    adaptation = make_adaptation(network, config)

    def of_task(key):
        task_key, start_key, step_key = jax.random.split(key, 3)
        task = sample_task(task_key, images, config.ways, config.shots, config.evaluation_queries)
        support = Examples(task.support_x, task.support_y)
        learner = adaptation.start(params, support, start_key)
        batches = (support,) * config.evaluation_steps
        learner = scan(adaptation.step, params, learner, batches, step_key).states[-1]
        return accuracy(adaptation.predict(learner, task.query_x), task.query_y)

    keys = jax.random.split(key, config.evaluation_tasks)
    at_once = config.evaluation_batch if config.evaluation_batch > 1 else None
    own = jax.lax.map(of_task, share(keys, axis_name), batch_size=at_once)
    accuracies = gathered(own, axis_name)[: len(keys)]
    half_width = _NORMAL * jnp.std(accuracies) / jnp.sqrt(len(accuracies))
    return Accuracy(jnp.mean(accuracies), half_width, accuracies)
