"""Tables on the console."""

from __future__ import annotations

import textwrap

_LINE = 100  # columns


def print_table(rows: list[dict]) -> None:
    """Prints rows that share their keys, where there are any; a value that is None stays empty."""
    if not rows:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in rows[0]:
        side = "left" if isinstance(rows[0][name], str) else "right"
        table.add_column(name, justify=side, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    Console(width=max(100, 16 * len(rows[0]))).print(table)


def print_row(row: dict) -> None:
    """Prints a row in one line, at once: texts, and numbers with their names; what comes last is
    left out where it is too long."""
    cells = ((name, value, _cell(value)) for name, value in row.items())
    parts = [
        cell if isinstance(value, str) else f"{name} {cell}" for name, value, cell in cells if cell
    ]
    print(textwrap.shorten(", ".join(parts), _LINE, placeholder=" ..."), flush=True)


def _cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if 1_000 <= abs(value) < 1e9 else f"{value:,.3g}"
    return f"{value:,}" if type(value) is int else str(value)
