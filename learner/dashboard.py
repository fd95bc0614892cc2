"""What TensorBoard shows of a run beside its curves: their order and their meaning, the
configuration, hyper-parameters with the final scores, and a layout of charts.

TensorBoard sorts groups of tags by their names. So each group has a number there, in the order in
which a person asks: `evaluation/return` of metrics.jsonl is `1_evaluation/return`.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

_ORDER = (
    ("evaluation",), ("training",), ("meta_*",), ("meta",), ("loss_*",), ("learner",),
    ("learner_time", "policy_lag", "replay"),
)  # fmt: skip
_SCORES = ("evaluation/return", "training/return")

# The first pattern that a name fits has its description.
_DESCRIPTIONS = {
    "evaluation/return": "Mean return of full evaluation episodes.",
    "evaluation/return_std": "Standard deviation of the return over evaluation episodes.",
    "evaluation/episodes": "Episodes of this evaluation.",
    "evaluation/parameter_version": "Learner updates behind the parameters that were evaluated.",
    "*/human_normalized_score": "(return - random) / (human - random): 1 is a human's score.",
    "training/return": "Mean return of the episodes that ended since the last row, at least 100.",
    "training/episodes": "Training episodes that ended so far.",
    "meta_*_logit": "The meta-parameter before its sigmoid, which is what the meta-learner moves.",
    "meta_*/discount": "Meta-parameter: discount of this task's loss.",
    "meta_*/lambda": "Meta-parameter: lambda of V-trace.",
    "meta_*/alpha": "Meta-parameter: share of clipped importance ratios (leaky V-trace).",
    "meta_*/*_cost": "Meta-parameter: weight of this term of the task's loss.",
    "meta/gradient_norm": "Norm of the meta-gradient.",
    "meta/gradient_cosine": "Cosine of this meta-gradient and the one before.",
    "meta/gradient_variance": "Variance of the meta-gradient over the run so far.",
    "meta/gradient_norm_to_variance": "Norm of the meta-gradient over its variance (table 3).",
    "meta/matching_loss": "Distance of the updated agent from its bootstrapped target.",
    "meta/outer_loss": "The agent's loss after the update, which STACX minimises.",
    "meta/outer_entropy": "Entropy of the updated policy, nats.",
    "meta/update_size": "Largest step of a logit in one meta-update.",
    "meta/step_share": "Share of its whole step that Adam takes; near 0 nothing is meta-learned.",
    "meta/warning": "What is wrong with the meta-learner.",
    "loss_*/total": "Loss of this task: its terms, weighted.",
    "loss_*/policy": "Policy-gradient loss.",
    "loss_*/entropy": "Minus the policy's entropy, clipped, nats.",
    "loss_*/policy_entropy": "Entropy of the policy, nats.",
    "loss_*/value": "Half the squared error of the value.",
    "loss_*/rho": "Mean (leaky) importance ratio; 1 without lag.",
    "loss_*/clipped_ratio": "Share of importance ratios above the clip.",
    "loss_*/accepted": "Share of states that LASER accepts.",
    "loss_*/advantage": "Mean advantage: V-trace's target minus the value.",
    "learner/frames": "Environment frames learned from.",
    "learner/updates": "Updates of the agent.",
    "learner/frames_per_second": "Environment frames per second since the last row.",
    "learner/updates_per_second": "Updates per second since the last row.",
    "learner/wall_seconds": "Seconds of training, over all sessions.",
    "learner/gradient_norm": "Norm of the agent's gradient, before its clip.",
    "learner/gradient_clipped": "Share of updates whose gradient was clipped.",
    "learner/learning_rate": "Step size of the agent's optimiser.",
    "learner/skipped_*": "Updates that were left out since something was not finite.",
    "learner/stalls": "Long waits for replay.",
    "learner/not_finite_metrics": "Metrics of this row that were not finite and are left out.",
    "learner_time/*": "Share of the learner's time.",
    "policy_lag/*": "Updates between the parameters that acted and those that learn from it.",
    "replay/*_size": "Unrolls in this table.",
    "replay/*_inserted": "Unrolls that were put into this table.",
    "replay/*_sampled": "Unrolls that were drawn from this table.",
    "actors/steps_per_second": "Agent steps per second of all actors.",
    "actors/reporting": "Actors that have reported.",
    "actors/stalls": "Long waits of actors for replay.",
    "actors/not_finite_rewards": "Rewards that were not finite and count as 0.",
    "actors_time/*": "Share of the actors' time.",
    "memory_mib/*": "Resident memory of this process, MiB.",
    "nodes/restarts": "Processes or threads that were started again.",
    "nodes/remote_actors": "Actors on other machines that are connected.",
    "nodes/remote_actors_lost": "Actors on other machines that ended or were cut off so far.",
    "inference/*": "Of the inference server.",
}  # fmt: skip


def tag_of(name: str) -> str:
    """A metric's tag."""
    group = name.partition("/")[0]
    numbers = (
        number for number, groups in enumerate(_ORDER, start=1)
        if any(fnmatch.fnmatchcase(group, pattern) for pattern in groups)
    )  # fmt: skip
    return f"{next(numbers, len(_ORDER) + 1)}_{name}"


def description_of(name: str, descriptions: Mapping[str, str] = _DESCRIPTIONS) -> str:
    """What a metric is; empty if that is not known.

    Args:
      name: of the metric.
      descriptions: pattern -> text; the first pattern that fits counts.
    """
    fits = (text for pattern, text in descriptions.items() if fnmatch.fnmatchcase(name, pattern))
    return next(fits, "")


def opening(name: str, settings: Mapping[str, Any]) -> list[Summary]:
    """What a session of `bmg train` begins with.

    Args:
      name: of the run.
      settings: `group.name` -> JSON value, what makes the run what it is.
    """
    return [*description_of_run(name, settings, [tag_of(score) for score in _SCORES]), _layout()]


def description_of_run(
    name: str, settings: Mapping[str, Any], scores: Sequence[str]
) -> list[Summary]:
    """The configuration as a text, and as hyper-parameters beside the newest scores.

    Args:
      name: of the run.
      settings: `group.name` -> JSON value.
      scores: tags of curves.
    """
    text = json.dumps(dict(settings), indent=2)
    plain = {
        key: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
        for key, value in settings.items()
    }
    metrics = [hparams.Metric(tag, display_name=tag) for tag in scores]
    return [
        text_pb("configuration", f"```\n{text}\n```"),
        hparams.hparams_config_pb([hparams.HParam(key) for key in plain], metrics),
        hparams.hparams_pb(plain, trial_id=name),
    ]


def _layout() -> Summary:
    """The page of custom scalars."""
    meta = ("discount", "lambda", "alpha", "policy_cost", "entropy_cost", "value_cost")
    terms = ("total", "policy", "value", "policy_entropy")
    pages = {
        "Returns": {"return": ("1_evaluation/return$", "2_training/return$")},
        "Meta-parameters": {name: (f"3_meta_.*/{name}$",) for name in meta},
        "Logits of meta-parameters": {name: (f"3_meta_.*/{name}_logit$",) for name in meta},
        "Meta-gradient": {
            "norm": ("4_meta/gradient_norm$",),
            "cosine": ("4_meta/gradient_cosine$",),
            "loss": ("4_meta/matching_loss$", "4_meta/outer_loss$"),
            "step share": ("4_meta/step_share$",),
        },
        "Losses": {name: (f"5_loss_.*/{name}$",) for name in terms},
        "Speed": {
            "frames per second": ("6_learner/frames_per_second$",),
            "time of the learner": ("7_learner_time/.*",),
            "policy lag": ("7_policy_lag/.*",),
        },
        "Health": {
            "skipped updates": ("6_learner/skipped_.*",),
            "stalls and restarts": (".*/stalls$", ".*nodes/restarts$"),
            "memory": (".*memory_mib/.*",),
        },
    }
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title=title,
                chart=[
                    layout_pb2.Chart(
                        title=chart, multiline=layout_pb2.MultilineChartContent(tag=tags)
                    )
                    for chart, tags in charts.items()
                ],
            )
            for title, charts in pages.items()
        ]
    )
    tensor = make_tensor_proto(layout.SerializeToString(), dtype=np.object_)
    value = Summary.Value(
        tag=custom_scalar.CONFIG_SUMMARY_TAG, tensor=tensor,
        metadata=custom_scalar.create_summary_metadata(),
    )  # fmt: skip
    return Summary(value=[value])
