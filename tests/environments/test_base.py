"""Seeds that never meet, and actions checked before they reach an emulator."""

import numpy as np
import pytest

from bmg.environments import base
from tests.tables import named


def test_no_two_environments_of_a_run_share_a_seed():
    # Actors with many environments, evaluators with few, and the last worker that is allowed.
    workers = [(w, 256) for w in range(40)] + [(w, 3) for w in range(40, 60)]
    workers += [(2**21 - 1, base.MAX_ENVS_PER_WORKER)]
    for base_seed in (0, 1, 7, 2**31 - 1, 2**40 + 3):
        seeds = np.concatenate([base.spaced_seeds(base_seed, w, n) for w, n in workers])
        assert seeds.dtype == np.int32
        assert seeds.min() >= 0
        assert len(np.unique(seeds)) == sum(n for _, n in workers)


def test_base_seeds_below_1000_never_meet_within_1500_workers():
    # A run's seeds are an interval on a circle of 2^31: its length must fit between two starts.
    starts = np.sort([int(base.spaced_seeds(s, 0, 1)[0]) for s in range(1000)])
    gaps = np.diff(np.append(starts, starts[0] + 2**31))
    for base_seed in range(0, 1000, 100):
        last = int(base.spaced_seeds(base_seed, 1499, base.MAX_ENVS_PER_WORKER)[-1])
        start = int(base.spaced_seeds(base_seed, 0, 1)[0])
        assert (last - start) % 2**31 == 1500 * base.MAX_ENVS_PER_WORKER - 1
    assert gaps.min() >= 1500 * base.MAX_ENVS_PER_WORKER


def test_seeds_are_a_function_of_base_worker_and_environment_only():
    few, many = base.spaced_seeds(5, 2, 4), base.spaced_seeds(5, 2, 9)
    np.testing.assert_array_equal(few, many[:4])


WITHOUT_A_SEED = [
    ((-1, 0, 1), "seed is -1"),
    ((0, -1, 1), "worker index is -1"),
    ((0, 2**21, 1), "worker index is 2097152"),
    ((0, 0, 0), "number of environments is 0"),
    ((0, 0, 1025), "number of environments is 1025"),
]


def test_refuses_numbers_without_a_seed():
    for arguments, message in WITHOUT_A_SEED:
        with named(*arguments):
            with pytest.raises(ValueError, match=message) as error:
                base.spaced_seeds(*arguments)
            assert "\n" not in str(error.value)


WRONG_ACTIONS = [
    ([0, 1, 3], "environment 2 is 3; allowed are 0 to 2"),
    ([0, -1, 0], "environment 1 is -1"),
    ([0, 1], r"\[2\]; allowed are integers of shape \[3\]"),
    ([[0, 1, 2]], r"\[1, 3\]"),
    ([0.0, 1.0, 2.0], "float64"),
    ([True, False, True], "bool"),
    (np.array([2**32, 0, 0]), "4294967296"),  # would be 0 in 32 bits
]


def test_refuses_wrong_actions_in_one_line():
    for actions, message in WRONG_ACTIONS:
        with named(actions):
            with pytest.raises(ValueError, match=message) as error:
                base.check_actions(np.asarray(actions), num_envs=3, num_actions=3)
            assert "\n" not in str(error.value)


def test_takes_any_integers():
    for dtype in [np.int32, np.int64, np.uint8]:
        with named(dtype):
            checked = base.check_actions(np.array([0, 2, 1], dtype), num_envs=3, num_actions=3)
            assert checked.dtype == np.int32
            assert checked.tolist() == [0, 2, 1]
