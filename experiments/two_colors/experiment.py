"""What the commands need of two colours: a method's lifetime, and the methods that the paper's
figures compare, by name; see `experiments.declaration.Functions`.

Reference: Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, section 5.1, appendix B.
"""

from __future__ import annotations

import dataclasses
import fnmatch

import numpy as np

from bmg.experiments.config import FiguresOptions
from bmg.experiments.lifetime import Lifetime
from bmg.experiments.two_colors import actor_critic, figures, q_lambda
from bmg.experiments.two_colors.config import (
    ActorCriticConfig,
    MethodsOptions,
    QLambdaConfig,
    TwoColorsConfig,
)

FIXED_ENTROPY = (0.0, 0.1, 0.2, 0.4, 0.8)  # Luketina et al. 2022
FIXED_EPSILON = (0.02, 0.05, 0.1, 0.2, 0.4)  # the paper tunes it and does not say over what
META_REGULARIZATION = (0.0, 0.1)
MG_STEPS = (1, 8)
BMG_TARGET_STEPS = (1, 7)
Q_TARGET_STEPS = (1, 16, 64)

DESCRIPTIONS = {
    "reward": "Mean reward of a step.",
    "entropy": "Entropy of the policy, nats.",
    "entropy_weight": "Meta-parameter: weight of the entropy in the agent's loss.",
    "epsilon": "Meta-parameter: probability of a random action.",
    "tie": "Share of steps at which several actions have the largest value.",
}


def make_lifetime(config: TwoColorsConfig) -> Lifetime:
    """The configured agent with its method."""
    module = actor_critic if config.agent == "actor-critic" else q_lambda
    return module.make_lifetime(config)


def methods() -> dict[str, TwoColorsConfig]:
    """Run directory -> configuration of each method of the paper's figures."""
    runs = {}
    for weight in FIXED_ENTROPY:
        own = ActorCriticConfig(entropy_weight=weight)
        runs[f"fixed-{weight:g}"] = TwoColorsConfig(method="fixed", actor_critic=own)
    for regularization in META_REGULARIZATION:
        own = ActorCriticConfig(meta_regularization=regularization)
        for steps in MG_STEPS:
            runs[f"mg-k{steps}-meta{regularization:g}"] = TwoColorsConfig(
                method="mg", inner_steps=steps, actor_critic=own
            )
        for steps in BMG_TARGET_STEPS:
            runs[f"bmg-l{steps}-meta{regularization:g}"] = TwoColorsConfig(
                method="bmg", target_steps=steps, actor_critic=own
            )
    for steps in BMG_TARGET_STEPS:
        runs[f"bmg-l{steps}-learned"] = TwoColorsConfig(
            method="bmg",
            target_steps=steps,
            actor_critic=ActorCriticConfig(final_objective="learned"),
        )
    for matching in ("reverse_kl", "symmetric_kl"):
        runs[f"bmg-l7-{matching}"] = TwoColorsConfig(method="bmg", matching=matching)
    for epsilon in FIXED_EPSILON:
        runs[f"q-fixed-{epsilon:g}"] = TwoColorsConfig(
            agent="q-lambda", method="fixed", q_lambda=QLambdaConfig(epsilon=epsilon)
        )
    for matching in ("policy", "value"):
        for steps in Q_TARGET_STEPS:
            runs[f"q-bmg-l{steps}-{matching}"] = TwoColorsConfig(
                agent="q-lambda", method="bmg", target_steps=steps, matching=matching
            )
    return runs


def suite(options: MethodsOptions) -> dict[str, TwoColorsConfig]:
    """Those that are asked for, with each step size where something is meta-learned."""
    chosen, every = {}, methods()
    for pattern in options.only:
        matching = {name: every[name] for name in every if fnmatch.fnmatchcase(name, pattern)}
        if not matching:
            raise ValueError(f"no method is called {pattern!r}; there are {', '.join(every)}.")
        chosen |= matching
    configs = {}
    for name, config in chosen.items():
        steps = options.steps if config.agent == "actor-critic" else options.q_lambda_steps
        rates = {f"-rate{rate:.12g}": rate for rate in options.meta_learning_rates}
        if config.method == "fixed":
            rates = {"": config.meta_learning_rate}
        for suffix, rate in rates.items():
            configs[name + suffix] = dataclasses.replace(
                config, seeds=options.seeds, steps=steps, meta_learning_rate=rate
            )
    return configs


def score(steps: np.ndarray, reward: np.ndarray) -> dict[str, float]:
    """Total reward of a lifetime, mean and standard deviation over seeds, and per step.

    Args:
      steps: [n], the end of each stretch.
      reward: [S, n], mean reward per step of each stretch.
    """
    total = np.sum(reward * np.diff(steps, prepend=0), axis=1)
    return {
        "total_reward_mean": float(np.mean(total)),
        "total_reward_std": float(np.std(total)),
        "reward_per_step": float(np.mean(total) / steps[-1]),
    }


def summarise(config: TwoColorsConfig, steps, columns) -> dict:
    """The agent with its method, and its score."""
    return {
        "agent": config.agent, "method": config.method, **score(steps, columns["reward"])
    }  # fmt: skip


def draw(runs, options: FiguresOptions):
    """The score of each run, and the figures that they suffice for."""
    for run in runs:
        result = score(run.steps, run.columns["reward"])
        yield (
            f"{run.name:<28} {run.config.seeds:>3} seeds x {run.steps[-1]:>10,} steps  "
            f"reward per step {result['reward_per_step']:.4f}  total "
            f"{result['total_reward_mean']:>10,.0f} +- {result['total_reward_std']:,.0f}"
        )
    found = [figures.Run(*run) for run in runs]
    yield from figures.draw_all(found, options.folder)
