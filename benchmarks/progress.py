"""What is shown while cases are measured that take turns: their rows come together, at the end."""

from __future__ import annotations

from collections.abc import Iterator


def show(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


def turns(count: int) -> Iterator[None]:
    """As many turns, with a line after each."""
    for number in range(1, count + 1):
        yield
        show(f"turn {number} of {count}")
