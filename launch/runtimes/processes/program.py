"""The Launchpad program: replay server, learner, actors, evaluators."""

from __future__ import annotations

import os

import launchpad as lp
from launchpad.nodes.python.local_multi_processing import PythonProcess

from bmg.environments.base import EnvironmentSpec
from bmg.launch.config import TrainConfig
from bmg.launch.runtimes import assembly, status
from bmg.launch.runtimes.processes import nodes
from bmg.replay.signature import Signature
from bmg.storage.memory import keeping_freed_memory
from bmg.storage.processes import name_of

# Only the learner sees the accelerator. An actor's batch is small: one thread each, so that many
# of them share the cores without fighting.
_ACTING_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
}
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
_CALLS = 16  # to the learner at the same time, beside those for actions
LEAVE_SECONDS = 10  # Launchpad's own notice, after which a node kills itself


def make_program(
    config: TrainConfig, spec: EnvironmentSpec, resume: bool, central_inference: bool
) -> tuple[lp.Program, dict[str, lp.Address]]:
    """Builds the program.

    Args:
      config: the run.
      spec: the environment's shapes.
      resume: whether the learner starts from the newest checkpoint.
      central_inference: whether the learner's process chooses the actors' actions.

    Returns:
      The program, and the addresses of its servers, once it is launched.
    """
    program = lp.Program("bmg")
    replay = lp.Address(status.REPLAY)
    with program.group(status.REPLAY):
        # Not lp.ReverbNode, which imports TensorFlow into every process that has the address.
        arrays = Signature(assembly.signature(config, spec)).arrays
        server = lp.PyNode(nodes.run_replay, config, arrays, replay)
        server.allocate_address(replay)
        program.add_node(server)
    with program.group(status.LEARNER):
        learner_node = lp.CourierNode(
            nodes.LearnerNode, config, spec, replay, resume, central_inference,
            # Each split of each actor waits for its actions in one of these threads.
            courier_kwargs={
                "thread_pool_size": _CALLS + config.actors.num_actors * config.actors.splits
            },
        )  # fmt: skip
        learner = program.add_node(learner_node)
        learner.set_client_kwargs(call_timeout=nodes.CALL_DEADLINE)  # else calls wait for ever
    with program.group(status.ACTOR):
        for index in range(config.actors.num_actors):
            program.add_node(
                lp.PyNode(nodes.run_actor, config, spec, index, learner, replay, central_inference)
            )
    with program.group(status.EVALUATOR):
        for index in range(config.evaluator.num_evaluators):
            program.add_node(lp.PyNode(nodes.run_evaluator, config, spec, index, learner))
    return program, {status.REPLAY: replay, status.LEARNER: learner_node.courier_address}


def local_resources(config: TrainConfig) -> dict[str, PythonProcess]:
    """Environment variables of each group's processes."""
    learner = {"JAX_PLATFORMS": config.learner.platform} if config.learner.platform else {}
    memory = keeping_freed_memory(os.environ)
    return {
        status.REPLAY: PythonProcess(env={**_of_any_node(), "JAX_PLATFORMS": "cpu"}),
        status.LEARNER: PythonProcess(env={**_of_any_node(), **memory, **learner}),
        status.ACTOR: PythonProcess(env=acting_environment()),
        status.EVALUATOR: PythonProcess(env=acting_environment()),
    }


def acting_environment() -> dict[str, str]:
    """Environment variables of a process that acts on the CPU, started by this one."""
    return {**_of_any_node(), **keeping_freed_memory(os.environ), **_ACTING_ENVIRONMENT}


def _of_any_node() -> dict[str, str]:
    return {**_QUIET, nodes.LAUNCHER: name_of(os.getpid())}
