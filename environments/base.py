"""The interface of vector environments, and seeds that differ between actors.

One call of `step` gives one transition of each environment. What happens in time, with A and B two
episodes of one environment:

    end of an episode (game over, or Atari's frame limit)

        frame     A6      A7      B0      B1          A8, the screen after the last action, is
        action       a6      a7      b0               never shown: B0 takes its place, and a
        reward       r7      r8      r1               discount of 0 prevents
        discount     1       0       1                bootstrapping from it
        first        F       T       F
        return       NaN     G       NaN              G = r1 + ... + r8 of episode A

    loss of a life (where the environment is so configured)

        frame     A6      A7      A8      A9          the game continues, no reset:
        action       a6      a7      a8               the agent's return ends here,
        reward       r7      r8      r9               the episode's does not
        discount     1       0       1
        first        F       F       F
        return       NaN     NaN     NaN

    an episode that a time limit cuts, where the game could have gone on

        frame     A6      A7      A8      B0          A8 is shown: its value is bootstrapped from.
        action       a6      a7      a8               The next step is a reset step, in which a8
        reward       r7      r8      0                does nothing; no loss uses it
        discount     1       1       0
        first        F       F       T
        reset        F       F       T
        return       NaN     NaN     G

Each column between two frames is one `Step`, holding the frame to its right.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

# Room for this many environments in each worker's block of seeds.
MAX_ENVS_PER_WORKER = 1024
# 2^32 over the golden ratio (Knuth's multiplicative hashing): consecutive multiples lie far apart.
_GOLDEN = 0x9E3779B1
_NUM_SEEDS = 2**31
MOST_WORKERS = _NUM_SEEDS // MAX_ENVS_PER_WORKER


class EnvironmentSpec(NamedTuple):
    """What networks and buffers need to know of an environment."""

    frame_shape: tuple[int, ...]  # of one single frame: (H, W, C) of an image, (D,) of a vector
    num_actions: int
    num_stack: int = 1  # single frames stacked for the policy along the last axis, elsewhere
    action_repeat: int = 1  # environment frames per agent step
    dtype: str = "uint8"  # of frames; or "float32"


class Step(NamedTuple):
    """What a vector of N environments returns after an action."""

    frame: np.ndarray  # [N, *frame_shape]; where `first`, the FIRST frame of the next episode
    reward: np.ndarray  # float32 [N], raw (unclipped), summed over the action repeat
    discount: np.ndarray  # float32 [N], 0 at an episode's end or a configured loss of life, else 1
    first: np.ndarray  # bool [N], this frame begins a new episode: one ended with this step
    episode_return: np.ndarray  # float32 [N], raw return of the episode that ended, else NaN
    reset: np.ndarray | None = None  # bool [N], the action did nothing; None: nowhere


class VectorEnvironment(Protocol):
    """N environments in lockstep."""

    spec: EnvironmentSpec
    num_envs: int

    def reset(self) -> Step:
        """New episodes everywhere: `first` True, reward 0, discount 1, episode_return NaN.

        The first call starts from the seeds; later calls continue the sequence of random numbers.
        """
        ...

    def step(self, actions: np.ndarray) -> Step:
        """Takes actions, integers [N] in [0, num_actions).

        Raises:
            ValueError: for actions of another shape, type or range.
        """
        ...

    def close(self) -> None:
        """Frees the emulators and their threads."""
        ...


def first_step(frame: np.ndarray) -> Step:
    """The step that `reset` gives, for frames [N, *frame_shape]."""
    num_envs = len(frame)
    return Step(
        frame=frame,
        reward=np.zeros(num_envs, np.float32),
        discount=np.ones(num_envs, np.float32),
        first=np.ones(num_envs, bool),
        episode_return=np.full(num_envs, np.nan, np.float32),
    )


def spaced_seeds(base_seed: int, worker_index: int, num_envs: int) -> np.ndarray:
    """Seeds of one worker's environments, shared with no other worker.

    Seeds are (golden * base_seed + 1024 * worker_index + i) mod 2^31. Within one base seed they are
    distinct by construction. Runs of up to 1500 workers never meet under any two of the base seeds
    0 ... 999, since the multiples of the golden ratio stay more than 1500 * 1024 apart there.

    Args:
        base_seed: of the whole run, 0 or more.
        worker_index: 0 or more; every actor and every evaluator of a run has its own.
        num_envs: environments of this worker, 1 ... 1024.

    Returns:
        int32 [num_envs], each in [0, 2^31).

    Raises:
        ValueError: for arguments out of range.
    """
    if base_seed < 0:
        raise ValueError(f"seed is {base_seed}; allowed are integers from 0; give another seed")
    if not 0 <= worker_index < MOST_WORKERS:
        raise ValueError(
            f"worker index is {worker_index}; allowed are 0 to {MOST_WORKERS - 1}; number the "
            "workers from 0"
        )
    if not 1 <= num_envs <= MAX_ENVS_PER_WORKER:
        raise ValueError(
            f"number of environments is {num_envs}; allowed are 1 to {MAX_ENVS_PER_WORKER} "
            "per worker; use more workers for more"
        )
    # Python's integers first: a large base seed must wrap, not overflow.
    offset = (_GOLDEN * int(base_seed) + MAX_ENVS_PER_WORKER * int(worker_index)) % _NUM_SEEDS
    return ((offset + np.arange(num_envs, dtype=np.int64)) % _NUM_SEEDS).astype(np.int32)


def check_actions(actions: np.ndarray, num_envs: int, num_actions: int) -> np.ndarray:
    """Actions as int32 [num_envs], after their shape, type and range were checked.

    Raises:
        ValueError: in one line that says what was given and what is allowed.
    """
    actions = np.asarray(actions)
    if actions.shape != (num_envs,) or not np.issubdtype(actions.dtype, np.integer):
        raise ValueError(
            f"actions are {actions.dtype} {list(actions.shape)}; allowed are integers of shape "
            f"[{num_envs}]; give one action to each environment"
        )
    wrong = (actions < 0) | (actions >= num_actions)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise ValueError(
            f"action of environment {index} is {actions[index]}; allowed are 0 to "
            f"{num_actions - 1}; check the policy's number of actions"
        )
    return actions.astype(np.int32)
