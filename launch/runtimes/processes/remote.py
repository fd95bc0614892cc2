"""What a process of `bmg actors` runs: an actor whose run is on another machine.

It reaches the run's servers through sockets in a folder, from which `bmg actors` carries to the
run's gate, and chooses its actions itself. What it prints goes to its standard error; its standard
output has a byte now and then, as a sign of life.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time

_PULSE_INTERVAL = 2.0  # seconds between signs of life
COMMAND = (sys.executable, "-c", f"from {__name__} import main; main()")


def task(config: dict, number: int, folder: pathlib.Path) -> bytes:
    """What the process finds on its standard input.

    Args:
      config: `TrainConfig` as JSON values.
      number: the actor's, which no other actor of the run has ever had.
      folder: of the sockets, which have the names of their services.
    """
    return json.dumps({"config": config, "number": number, "folder": str(folder)}).encode()


def main() -> None:
    """Acts until it is killed."""
    pulse, next_pulse = os.dup(1), 0.0
    os.dup2(2, 1)
    given = json.load(sys.stdin)
    from bmg.launch.runtimes.processes.nodes import CALL_DEADLINE, leave_with_launcher

    leave_with_launcher()
    import courier

    from bmg.actors.inference import LocalInference
    from bmg.environments.factory import make_spec
    from bmg.launch.config import TrainConfig
    from bmg.launch.runtimes.assembly import act, acting, signature
    from bmg.launch.runtimes.processes.nodes import parameter_client
    from bmg.launch.runtimes.status import LEARNER, REPLAY
    from bmg.replay.remote import RemoteReplay
    from bmg.storage.fields import from_dict

    config = from_dict(TrainConfig, given["config"])
    number, folder = given["number"], given["folder"]
    spec = make_spec(config.game, config.atari, config.game_options)
    learner = courier.Client(f"unix:{folder}/{LEARNER}", call_timeout=CALL_DEADLINE)
    stalls = 0

    def alive() -> bool:
        """Asked by everyone who works or waits, whether to stop: never."""
        nonlocal next_pulse
        if time.monotonic() >= next_pulse:
            next_pulse = time.monotonic() + _PULSE_INTERVAL
            os.write(pulse, b".")
        return False

    def stalled(message: str) -> None:
        nonlocal stalls
        stalls += 1
        print(f"remote actor {number} stalled: {message}", flush=True)

    def report(metrics: dict[str, float]) -> None:
        learner.futures.report(f"remote_actor_{number}", {**metrics, "stalls": float(stalls)})

    address = f"unix:{folder}/{REPLAY}"
    replay = RemoteReplay(address, signature(config, spec), config.replay, alive, stalled)
    parameters = parameter_client(config, learner, lambda: False)  # in a thread of its own
    inference = LocalInference(acting(config.agent, spec), parameters)
    act(config, number, inference, False, replay.append, report, alive)
