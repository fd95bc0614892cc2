"""A tabular grid world as numbers: what each action brings in each state, exactly.

    v_pi  =  r_pi + gamma P_pi v_pi          q*  =  r + gamma P max_a q*

P holds the probabilities that the episode goes on to a state; it ends elsewhere. A time limit is
left out: states do not tell how far it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from bmg.environments import grid


class Model(NamedTuple):
    """Of S states, by their numbers, and A actions."""

    reward: np.ndarray  # float64 [S, A]
    transitions: tuple[scipy.sparse.csr_matrix, ...]  # A of [S, S]


def make_model(params: grid.Params) -> Model:
    """Of a grid with fixed places."""
    cells, order = np.asarray(params.cells), np.asarray(params.order)
    free, collects = int(params.free), bool(params.collects)
    places = np.asarray(params.places.objects)
    there = int(np.sum(params.objects.exists))
    reward, ends, returns = (np.asarray(x, float)[:there] for x in params.objects[:3])
    bits = np.arange(2**there)
    present = (bits[:, None] >> np.arange(there)) & 1 == 1  # [2^m, m]
    actions = grid.NUM_ACTIONS if collects else grid.NUM_MOVES
    rewards = np.zeros((free << there, actions))
    entries: list[list[tuple[np.ndarray, ...]]] = [[] for _ in range(actions)]
    back = [*_that_return(present, returns)]
    for cell in range(free):
        state = (cell << there) + bits
        for action in range(actions):
            row, column = divmod(action % grid.NUM_MOVES, 3)
            goal = cells[cell] + (row - 1) * grid.FRAME + column - 1
            reaches = action >= grid.NUM_MOVES
            moved = cell if reaches or order[goal] < 0 else order[goal]
            where = goal if reaches else cells[moved]
            collected = present & (places[:there] == where)
            if collects and not reaches:
                collected[:] = False
            rewards[state, action] = collected @ reward
            goes_on = np.prod(np.where(collected, 1 - ends, 1.0), axis=1)
            left = bits & ~(collected << np.arange(there)).sum(1)
            for numbers, probability in back:
                after = (moved << there) + (left | numbers)
                entries[action].append((state, after, goes_on * probability))
    size = rewards.shape[:1] * 2
    matrices = []
    for own in entries:
        state, after, probability = map(np.concatenate, zip(*own))
        matrices.append(scipy.sparse.csr_matrix((probability, (state, after)), size))
    return Model(rewards, tuple(matrices))


def _that_return(present: np.ndarray, returns: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Objects that may come back in a step, as bits, and in each state with which probability."""
    count = present.shape[1]
    for numbers in range(2**count):
        come = (numbers >> np.arange(count)) & 1 == 1
        stay_away = np.where(come, returns, 1 - returns)
        probability = np.prod(np.where(present, ~come, stay_away), axis=1)
        if np.any(probability > 0):
            yield numbers, probability


def values_of(model: Model, policy: np.ndarray, gamma: float) -> np.ndarray:
    """v of a policy [S, A]: float64 [S]."""
    reward = np.sum(policy * model.reward, axis=1)
    mean = sum(
        scipy.sparse.diags(policy[:, action]) @ matrix
        for action, matrix in enumerate(model.transitions)
    )
    system = scipy.sparse.identity(len(reward)) - gamma * mean
    return scipy.sparse.linalg.spsolve(system.tocsc(), reward)


def best_policy(model: Model, gamma: float, rounds: int = 50) -> np.ndarray:
    """What brings the most: int [S] actions, by policy iteration."""
    states, actions = model.reward.shape
    chosen = np.argmax(model.reward, axis=1)
    for _ in range(rounds):
        policy = np.eye(actions)[chosen]
        v = values_of(model, policy, gamma)
        q = model.reward + gamma * np.stack([matrix @ v for matrix in model.transitions], axis=1)
        better = q.max(1) > q[np.arange(states), chosen] + 1e-9
        if not better.any():
            break
        chosen = np.where(better, np.argmax(q, axis=1), chosen)
    return chosen
