"""ParameterClient against a scripted learner."""

from __future__ import annotations

import threading
import time

import jax
import numpy as np
import pytest

from bmg.actors.parameters import LocalParameters, ParameterClient
from bmg.agents.messages import VersionedParameters
from tests.actors.fakes import never
from tests.waiting import DEADLINE, Call, Stop, eventually, waits


def published(version: int, final: bool = False, value: float | None = None):
    value = float(version) if value is None else value
    return VersionedParameters({"w": np.full(3, value, np.float32)}, version, 10 * version, final)


class Learner:
    """Answers each fetch with the next line of a script; an exception is raised, None is none."""

    def __init__(self, *script):
        self.script = list(script)
        self.asked: list[int] = []

    def __call__(self, version: int):
        self.asked.append(version)
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def make_client():
    clients = []

    def make(learner, interval: float = 3600.0, timeout: float = DEADLINE) -> ParameterClient:
        # So long an interval leaves one look to the thread; the test takes the others itself.
        clients.append(ParameterClient(learner, interval, timeout))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def now(client: ParameterClient) -> VersionedParameters:
    latest = client.wait(never)
    assert latest is not None
    return latest


def value(latest: VersionedParameters) -> float:
    (value,) = np.unique(latest.params["w"])
    return float(value)


def test_newer_versions_replace(make_client):
    learner = Learner(published(0), published(3), None, published(7))
    client = make_client(learner)
    seen = [now(client).version]
    for _ in range(3):
        client.refresh()
        seen.append(now(client).version)
        assert value(now(client)) == now(client).version
        assert now(client).frames == 10 * now(client).version
    assert seen == [0, 3, 3, 7]
    assert learner.asked == [-1, 0, 3, 3], "each look says which version is at hand"
    assert isinstance(now(client).params["w"], jax.Array), "on the device once, not at every step"


def test_older_versions_never_replace(make_client):
    client = make_client(Learner(published(5), published(4), published(2, final=True)))
    assert now(client).version == 5
    for _ in range(2):
        client.refresh()
        assert now(client)[1:3] == (5, 50)
        assert value(now(client)) == 5.0


def test_the_final_flag_arrives_with_the_version_at_hand(make_client):
    client = make_client(Learner(published(5), published(5, final=True)))
    assert not now(client).final
    client.refresh()
    assert now(client).final and now(client).version == 5 and value(now(client)) == 5.0


def test_a_plain_tuple_will_do(make_client):
    """What comes over the wire may have lost its type."""
    client = make_client(Learner(tuple(published(2))))
    assert now(client).version == 2


def test_failures_are_tried_again(make_client, capfd):
    learner = Learner(RuntimeError("Deadline Exceeded"), TimeoutError(), published(1))
    client = make_client(learner, interval=0.01)
    assert now(client).version == 1
    assert learner.asked[:3] == [-1, -1, -1]
    assert "Deadline Exceeded" in capfd.readouterr().out


def test_a_failure_leaves_what_is_at_hand(make_client):
    client = make_client(Learner(published(1), ConnectionError("gone")))
    assert now(client).version == 1
    client.refresh()
    assert now(client).version == 1 and value(now(client)) == 1.0


def test_waiting_ends_when_asked_to_stop(make_client):
    client = make_client(Learner())
    stop = Stop()
    waiting = Call(lambda: client.wait(stop))
    assert waits(waiting, stop), "there is nothing to give yet"
    stop.set()
    assert waiting.result() is None


def test_close_ends_the_looks(make_client):
    learner, before = Learner(), set(threading.enumerate())
    client = make_client(learner, interval=0.01)
    (thread,) = set(threading.enumerate()) - before
    eventually(lambda: len(learner.asked) >= 3)
    assert thread.is_alive(), "the thread looks again and again"
    client.close()
    eventually(lambda: not thread.is_alive())


def test_parameters_of_the_same_process_are_the_newest_at_every_call():
    script = [published(0), published(3), published(3, final=True)]
    parameters = LocalParameters(lambda: script[0], jax.devices()[1])
    for version, final in [(0, False), (3, False), (3, True)]:
        latest = now(parameters)
        assert latest[1:] == (version, 10 * version, final) and value(latest) == version
        assert latest.params["w"].devices() == {jax.devices()[1]}
        assert now(parameters) is latest, "on the device once, not at every step"
        script.pop(0) if len(script) > 1 else None


def test_nobody_waits_for_ever_for_the_first_parameters(make_client):
    client = make_client(Learner(), timeout=0.5)
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="no parameters within 0.5 s") as caught:
        Call(lambda: client.wait(never)).result()
    assert time.monotonic() - start >= 0.5
    assert "\n" not in str(caught.value)
