"""For `make docs`: shows the comments of fields, which hold their shapes and units, as their text.

    class Unroll(NamedTuple):
        states: tuple[PyTree, ...]  # K + 1 states

A comment stands behind a field, or on the lines above it. A field with a docstring keeps that.
"""

from __future__ import annotations

import ast
import functools
import io
import tokenize

import griffe


@functools.cache
def comments(path: str) -> dict[int, tuple[str, bool]]:
    """Line -> its comment, and whether the line holds nothing else."""
    with open(path) as file:
        text = file.read()
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            found[token.start[0]] = token.string.lstrip("# ").rstrip(), alone
    return found


def comment_of(path: str, first: int, last: int) -> str:
    """The comment of a field on the lines from `first` to `last`; "" where it has none."""
    found = comments(path)
    above = []
    while first - 1 in found and found[first - 1][1]:
        first -= 1
        above.insert(0, found[first][0])
    behind = found.get(last, ("", False))[0]
    return " ".join(filter(None, [*above, behind]))


class FieldComments(griffe.Extension):
    """Gives fields of classes, and module constants, their comments as docstrings."""

    def on_attribute_instance(
        self, *, node: ast.AST | griffe.ObjectNode, attr: griffe.Attribute, **_: object
    ) -> None:
        """See `griffe.Extension`."""
        if attr.docstring is None and isinstance(node, ast.AnnAssign | ast.Assign):
            text = comment_of(str(attr.filepath), node.lineno, node.end_lineno or node.lineno)
            if text:
                attr.docstring = griffe.Docstring(text, parent=attr, lineno=node.lineno)
