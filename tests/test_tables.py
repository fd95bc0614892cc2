"""The tests' own tables: whatever fails in a row says which row it was."""

from __future__ import annotations

import pytest

from tests.tables import named


def test_a_failing_row_is_named():
    def nothing_raised():
        with pytest.raises(ValueError):
            pass

    def wrong():
        assert 1 + 1 == 3, "the sum"

    for fail, words in [(nothing_raised, "DID NOT RAISE"), (wrong, "the sum")]:
        with pytest.raises(AssertionError, match=r"in the row 'x', \[2\]: ") as caught:
            with named("x", [2]):
                fail()
        assert words in str(caught.value)


def test_a_row_that_holds_and_a_skip_are_left_alone():
    with named("x"):
        pass
    with pytest.raises(pytest.skip.Exception):
        with named("x"):
            pytest.skip("not here")
