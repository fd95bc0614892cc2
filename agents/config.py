"""Configuration of the agents. Defaults are BMG Table 2 unless a field says otherwise."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, NamedTuple

from bmg.storage.fields import (
    Count,
    Few,
    FieldError,
    Logit,
    Lookahead,
    Names,
    Natural,
    Positive,
    Share,
    ShareBelowOne,
    Weight,
    check_fields,
)

Matching = Literal["kl", "reverse_kl", "symmetric_kl", "value", "kl_value", "l2", "l2_norm"]
Reduction = Literal["mean", "sum"]
TORSOS = ("auto", "resnet", "dqn", "shallow", "minatar", "mlp")
ALGORITHMS = ("impala", "stacx", "bmg", "lpg")  # a file of this folder each


class Reading(NamedTuple):
    """One way to read what Table 2 leaves open, see docs/readings.md."""

    loss: Reduction  # over batch and time
    matching: Reduction  # over the states
    epsilon_in_root: bool  # RMSProp's

    @property
    def label(self) -> str:
        """As tables have it."""
        where = "in" if self.epsilon_in_root else "outside"
        return f"loss {self.loss}, matching {self.matching}, epsilon {where}"


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The network: a torso shared by all tasks, then separate MLPs per task."""

    torso: Annotated[str, Names(TORSOS)] = "resnet"
    """resnet: IMPALA's deep torso; dqn: 32-64-64 convolutions; shallow: 16-32, for CPUs; minatar:
    one of 16 channels, for small images; mlp: everything flattened; auto: mlp for vectors, minatar
    for images of less than 36 pixels, else shallow; or package.module:function for your own, which
    turns a batch [N, ...] and this configuration into features [N, ...] by Haiku's modules."""
    channels: tuple[Count, ...] = (64, 128, 128, 64)
    """Channels of each resnet section; 4x of BMG App. C.4, 1x is 16 32 32 16. Table 2."""
    residual_blocks: Few = 2
    """Residual blocks per resnet section. Table 2."""
    features: Count = 512
    """Size of the projection from torso to heads ("conv-to-linear feature size"). Table 2."""
    head_hidden: tuple[Count, ...] = (256, 256)
    """Hidden layers of each policy and value MLP; empty for linear heads. Table 2."""
    center_frames: bool = False
    """Subtract each frame's mean brightness and amplify what is left: few pixels differ between
    states, and the background they share is learned first otherwise. Ours."""
    weight_scale: Positive = 1.0
    """Factor on the torso's initial weights, 1 is Haiku's default. Ours."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of activations; parameters, losses and optimisers are float32. auto: bfloat16 where the
    learner has an accelerator. Actors and evaluators on CPUs act in float32. Ours."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The outer loss's fixed hyper-parameters p, and what is fixed in every loss."""

    discount: Share = 0.995
    """gamma of the outer loss, per agent step. Table 2."""
    lambda_: Share = 1.0
    """lambda of the outer loss's traces. Table 2."""
    alpha: Share = 1.0
    """Mixing weight of clipped (1) and unclipped (0) importance ratios. Table 2."""
    rho_clip: Positive = 1.0
    """rho-bar, clip of the ratios in the temporal differences; never learned. Table 2."""
    c_clip: Positive = 1.0
    """c-bar, clip of the ratios in the traces; never learned. Table 2."""
    policy_cost: Weight = 1.0
    """epsilon_PG, weight of the policy-gradient loss. Table 2."""
    entropy_cost: Weight = 0.01
    """epsilon_EN, weight of the entropy loss, nats. Table 2."""
    value_cost: Weight = 0.25
    """epsilon_TD, weight of half the squared value error. Table 2."""
    max_entropy: Positive = 0.9
    """No entropy bonus above this share of the uniform policy's entropy; 1 or more: no limit.
    Table 2's "max entropy loss value", read as rlax's entropy clip."""
    laser_threshold: Weight = 2.0
    """Replayed states whose KL to the implicit V-trace policy is above this are left out, nats.
    Table 2."""
    advantage: Literal["target", "one_step"] = "target"
    """Policy gradient's advantage: rho (G - v) as BMG Eq. 4 prints it, or IMPALA's
    rho (r + gamma G' - v)."""
    reduction: Reduction = "mean"
    """Over batch and time. The paper is silent; the paper preset sums, as IMPALA does:
    docs/readings.md."""
    max_abs_reward: Positive = 1.0
    """Rewards are clipped to this magnitude in the losses, after the action repeat. Table 2."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The agent's RMSProp, used by agent and target steps alike."""

    learning_rate: Positive = 1e-4
    """Initial step size. Table 2."""
    decay_frames: Natural = 200_000_000
    """Environment frames over which the step size falls linearly to 0; 0 keeps it constant.
    Table 2 prints 200 000; read in thousands, as IMPALA decays over the whole run."""
    decay: ShareBelowOne = 0.99
    """Decay of the second moment ("momentum decay"). Table 2."""
    epsilon: Positive = 1e-4
    """Added to the second moment. Table 2."""
    epsilon_in_root: bool = True
    """Whether epsilon stands inside the square root, as in optax. The paper is silent; the paper
    preset has it outside: docs/readings.md."""
    max_norm: Positive = 0.3
    """Clip of the gradient's global norm; 0.2 for BMG with L = 4. Table 2 and App. C.6."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class MetaConfig:
    """Meta-learning: what is learned, from which target, how it is matched."""

    inner_steps: Lookahead = 1
    """K, agent updates that are backpropagated through; the first K - 1 use replay only."""
    target_steps: Lookahead = 1
    """L, steps of the bootstrapped target; the first L - 1 use a replay batch each. BMG only."""
    matching: Matching = "kl_value"
    """How target and updated agent are compared; l2 is the squared distance of the parameters,
    l2_norm its root. BMG only; App. C."""
    matching_reduction: Reduction = "mean"
    """Over the states of the batch, of all but l2 and l2_norm. The paper is silent; the presets
    sum: docs/readings.md."""
    value_weight: Weight = 0.25
    """Weight of value matching in kl_value. App. C."""
    target_optimizer: Literal["rmsprop", "sgd"] = "rmsprop"
    """Optimiser of the last target step; sgd with l2 is STACX. App. C.1."""
    sgd_target_rate: Positive = 0.5
    """Step size of the sgd target step; 0.5 in App. C.1."""
    final_data: Literal["all", "replay"] = "all"
    """Data of the last target step; replay is the ablation "R" of Fig. 13."""
    final_objective: Literal["outer", "learned"] = "outer"
    """Loss of the last target step; learned is the ablation "w" of Fig. 13."""
    continuation: Literal["updated", "recomputed", "target"] = "updated"
    """Where the agent goes on: its update, its update anew under the new meta-parameters (NS),
    or the target (DB). Fig. 17."""
    extra_replay_batches: Few = 0
    """Replay batches added to the meta-objective's data; 3 is the ablation "R" of Fig. 14."""
    auxiliary_tasks: Few = 2
    """Tasks beside the main one, each with its own heads and meta-parameters. Table 2."""
    initial_logit: Logit = 4.6
    """Initial value of each meta-parameter before its sigmoid (0.990 after). STACX."""
    learning_rate: Weight = 1e-3
    """Adam's step size. Table 2."""
    b1: ShareBelowOne = 0.9
    """Adam's beta_1. Table 2."""
    b2: ShareBelowOne = 0.999
    """Adam's beta_2. Table 2."""
    epsilon: Positive = 1e-4
    """Adam's epsilon. Table 2."""
    max_norm: Weight = 0.0
    """Clip of the meta-gradient's global norm; 0 for none. Table 2 lists none."""
    differentiation: Literal["mixed", "plain"] = "mixed"
    """How the meta-gradient passes through the agent's gradients: mixed-mode with recomputed steps,
    or reverse over reverse with everything kept. Same result. Ours."""
    stacx_kl_weight: Weight = 0.0
    """Weight of KL(updated || old policy) in STACX's outer loss; 1 in the original STACX, 0 in
    BMG's baseline."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class RuleAgentConfig:
    """An agent that a learned update rule updates (Oh et al. 2020); the rule does not change."""

    rule: str = "tabular"
    """File of the rule, as `bmg lpg` leaves it in its run directory, or the name of one that comes
    with the project: tabular, of the paper's nine tabular worlds. A run of an agent copies it into
    its own, and goes on by that."""
    learning_rate: Positive = 5e-4
    """Alpha_lr, of Adam. Oh et al. table 4."""
    prediction_cost: Weight = 0.5
    """Alpha_y. Oh et al. table 4."""
    baseline: bool = True
    """Whether what the rule says of the policy is taken relative to what it says on average in a
    state, which the agent learns. Oh et al. Eq. 7."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class AgentConfig:
    """An agent: IMPALA (nothing is meta-learned), STACX, BMG, LPG, or your own."""

    algorithm: Annotated[str, Names(ALGORITHMS)] = "bmg"
    """Which update rule the learner runs: impala, stacx, bmg, lpg, or package.module:function for
    your own, which gives an agent as agents/agent.py describes it."""
    network: NetworkConfig = NetworkConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    meta: MetaConfig = MetaConfig()
    lpg: RuleAgentConfig = RuleAgentConfig()

    def __post_init__(self):
        check_fields(self)
        if self.algorithm == "lpg" and not self.lpg.rule:
            raise FieldError(
                "lpg.rule",
                "is empty; give a rule's file, which `bmg lpg` leaves in its run directory",
            )
