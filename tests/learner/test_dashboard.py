"""What TensorBoard shows of a run beside its curves, read as TensorBoard reads it."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from bmg.actors.rollout import agent_spec, trajectory_signature
from bmg.agents.agent import UpdateBatch
from bmg.agents.config import AgentConfig, NetworkConfig
from bmg.agents.factory import make_agent
from bmg.environments.base import EnvironmentSpec
from bmg.learner.dashboard import description_of, tag_of
from bmg.learner.metrics import MetricsWriter

SETTINGS = {"game": "catch", "agent.meta.inner_steps": 2, "agent.network.head_hidden": [3, 4]}
OTHERS = [
    "evaluation/return", "evaluation/return_std", "evaluation/human_normalized_score",
    "training/return", "training/episodes", "learner/frames", "learner/frames_per_second",
    "learner/updates_per_second", "learner/skipped_in_a_row", "learner_time/updating",
    "policy_lag/mean", "replay/online_size", "actors/stalls", "learner/stalls", "nodes/restarts",
    "actors_time/environment", "memory_mib/actor_0",
]  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """Read back: a run of two rows that went on once."""
    workdir = tmp_path / "catch"
    for frames in (0, 40):
        writer = MetricsWriter(workdir, frames, settings=SETTINGS)
        writer.write(frames + 40, {"evaluation/return": 0.5, "training/return": 0.25, "own/x": 1})
        writer.close()
    events = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    events.Reload()
    (name,) = events.Runs()
    return events, name


def metadata(events, run, tag):
    return events.SummaryMetadata(run, tag)


def test_the_configuration_is_a_text(run):
    events, name = run
    tensors = events.Tensors(name, "configuration")
    text = tensors[-1].tensor_proto.string_val[0].decode()
    assert json.loads(text.strip("`\n")) == SETTINGS


def test_hyper_parameters_stand_beside_the_final_scores(run):
    events, name = run
    start = plugin_data_pb2.HParamsPluginData.FromString(
        metadata(events, name, "_hparams_/session_start_info").plugin_data.content
    ).session_start_info
    found = {key: getattr(x, x.WhichOneof("kind")) for key, x in start.hparams.items()}
    assert found == {**SETTINGS, "agent.network.head_hidden": "[3, 4]"}
    experiment = plugin_data_pb2.HParamsPluginData.FromString(
        metadata(events, name, "_hparams_/experiment").plugin_data.content
    ).experiment
    assert {info.name for info in experiment.hparam_infos} == SETTINGS.keys()
    tags = [info.name.tag for info in experiment.metric_infos]
    assert tags == ["1_evaluation/return", "2_training/return"]
    assert set(tags) <= set(events.Runs()[name]["tensors"])


def test_curves_say_what_they_are_and_come_in_order(run):
    events, name = run
    tags = [tag for tag in events.Runs()[name]["tensors"] if tag[0].isdigit()]
    assert sorted(tags)[:2] == ["1_evaluation/return", "2_training/return"]
    assert sorted(tags)[-1] == tag_of("own/x") == "8_own/x"
    for tag, words in (("1_evaluation/return", "evaluation episodes"), ("8_own/x", "")):
        assert words in metadata(events, name, tag).summary_description
        assert [x.step for x in events.Tensors(name, tag)] == [40, 80]


def agent_metrics(algorithm: str) -> set[str]:
    """Names of what an agent tells of its update."""
    spec = EnvironmentSpec((10, 5, 1), 3)
    network = NetworkConfig(torso="mlp", features=4, head_hidden=())
    agent = make_agent(AgentConfig(algorithm, network=network), agent_spec(spec))
    unroll = jax.tree.map(lambda x: np.zeros((2, *x.shape), x.dtype), trajectory_signature(spec, 4))
    batch = UpdateBatch(unroll, unroll, (unroll,) * agent.num_extra_batches)
    key = jax.random.PRNGKey(0)
    state = jax.eval_shape(agent.init, key)
    _, metrics = jax.eval_shape(agent.update, state, batch, np.int32(0), key)
    return set(metrics)


def test_every_chart_and_every_metric_of_an_agent_is_known(run):
    """A chart without any tag would be empty; a metric without a description says nothing."""
    events, name = run
    names = set(OTHERS).union(*map(agent_metrics, ("impala", "stacx", "bmg")))
    assert [x for x in names if not description_of(x)] == []
    (tensor,) = events.Tensors(name, "custom_scalars__config__")[-1].tensor_proto.string_val
    layout = layout_pb2.Layout.FromString(tensor)
    tags = [tag_of(x) for x in names]
    charts = [chart for category in layout.category for chart in category.chart]
    assert len(charts) > 20
    for chart in charts:
        for pattern in chart.multiline.tag:
            assert any(re.search(pattern, tag) for tag in tags), pattern
