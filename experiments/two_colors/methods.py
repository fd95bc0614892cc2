"""A method's lifetime, and the methods that the paper's figures compare, by name.

Reference: Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, section 5.1, appendix B.
"""

from __future__ import annotations

from bmg.experiments.lifetime import Lifetime
from bmg.experiments.two_colors import actor_critic, q_lambda
from bmg.experiments.two_colors.config import ActorCriticConfig, QLambdaConfig, TwoColorsConfig

FIXED_ENTROPY = (0.0, 0.1, 0.2, 0.4, 0.8)  # Luketina et al. 2022
FIXED_EPSILON = (0.02, 0.05, 0.1, 0.2, 0.4)  # the paper tunes it and does not say over what
META_REGULARIZATION = (0.0, 0.1)
MG_STEPS = (1, 8)
BMG_TARGET_STEPS = (1, 7)
Q_TARGET_STEPS = (1, 16, 64)


def make_lifetime(config: TwoColorsConfig) -> Lifetime:
    """The configured agent with its method."""
    module = actor_critic if config.agent == "actor-critic" else q_lambda
    return module.make_lifetime(config)


def suite() -> dict[str, TwoColorsConfig]:
    """Run directory -> configuration of a method."""
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
