"""TensorBoard's events of lifetimes: every row once, also where a run stops and goes on."""

from __future__ import annotations

import dataclasses
import fnmatch
import json

import numpy as np
import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from bmg.experiments import few_shot, lpg, mrp, snake, two_colors
from bmg.experiments.few_shot.lifetime import COLUMNS as few_shot_columns
from bmg.experiments.records import Records
from bmg.launch.events import Events, columns_as_they_are
from bmg.learner.dashboard import description_of


def steps_in(folder) -> list[int]:
    found = EventAccumulator(str(folder / "seed-0"))
    found.Reload()
    return [event.step for event in found.Scalars("x")]


def test_a_row_that_is_complete_at_a_stop_is_written(tmp_path):
    """And one that is not, once it is."""
    records = Records(("x",), 1, 1, 5)
    for stop, expected in ((10, [5, 10]), (13, [5, 10]), (20, [5, 10, 15, 20])):
        events = Events(tmp_path, range(1), 100, records.updates)
        while records.updates < stop:
            records = records.plus({"x": np.ones((1, 1))})
            events.update(records)
        events.update(records)
        events.close()
        assert steps_in(tmp_path) == expected


def test_what_a_run_is_stands_beside_its_curves(tmp_path):
    """Once in each session, for each seed: as a text, and as hyper-parameters."""
    records = Records(("x", "y"), 2, 1, 5)
    for stop in (10, 20):
        events = Events(
            tmp_path, range(3, 5), 100, records.updates, settings={"method": "bmg", "a.b": 0.5}
        )
        while records.updates < stop:
            records = records.plus({"x": np.ones((2, 1)), "y": np.ones((2, 1))})
            events.update(records)
        events.close()
    for seed in (3, 4):
        found = EventAccumulator(str(tmp_path / f"seed-{seed}"))
        found.Reload()
        texts = [x.tensor_proto.string_val[0].decode() for x in found.Tensors("configuration")]
        settings = {"method": "bmg", "a.b": 0.5, "seed": seed}
        assert [json.loads(text.strip("`\n")) for text in texts] == [settings] * 2
        start, experiment = (
            plugin_data_pb2.HParamsPluginData.FromString(
                found.SummaryMetadata(f"_hparams_/{name}").plugin_data.content
            )
            for name in ("session_start_info", "experiment")
        )
        assert start.session_start_info.hparams.keys() == settings.keys()
        assert [x.name.tag for x in experiment.experiment.metric_infos] == ["x", "y"]


def test_curves_say_what_they_are(tmp_path):
    """Once in each file."""
    records = Records(("x", "discount_3"), 1, 1, 5)
    texts = {"x": "Of x.", "discount_*": "Of each."}
    for stop in (10, 20):
        events = Events(tmp_path, range(1), 100, records.updates, descriptions=texts)
        while records.updates < stop:
            records = records.plus({name: np.ones((1, 1)) for name in ("x", "discount_3")})
            events.update(records)
        events.close()
    found = plugin_event_accumulator.EventAccumulator(str(tmp_path / "seed-0"))
    found.Reload()
    for name, text in (("x", "Of x."), ("discount_3", "Of each.")):
        assert found.SummaryMetadata(name).summary_description == text
        assert [event.step for event in found.Tensors(name)] == [5, 10, 15, 20]


@pytest.mark.parametrize(
    "experiment, changes",
    [
        (two_colors, {}),
        (two_colors, {"agent": "q-lambda"}),
        (mrp, {}),
        (snake, {}),
        (lpg, {"worlds": ("dense", "chain-short")}),
        (few_shot, {}),
    ],
)
def test_every_curve_of_an_experiment_has_a_description(experiment, changes, monkeypatch):
    declared = experiment.EXPERIMENT
    config = dataclasses.replace(declared.config(), **changes)
    if experiment is few_shot:
        columns = few_shot_columns
    else:
        columns = declared.functions.make_lifetime(config).columns
    steps, rows = np.arange(1, 3), {name: np.ones((1, 2)) for name in columns}
    curves = getattr(declared.functions, "curves", columns_as_they_are)(steps, rows)
    assert curves
    for tag in curves:
        assert description_of(tag, declared.functions.DESCRIPTIONS), tag
    for pattern in declared.functions.DESCRIPTIONS:
        if experiment is not two_colors:  # of two agents
            assert fnmatch.filter(curves, pattern), f"{pattern} is no curve"
