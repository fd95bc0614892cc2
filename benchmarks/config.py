"""What every benchmark may be told."""

from __future__ import annotations

import dataclasses

from bmg.storage.fields import check_fields


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Measure one part of the system."""

    json: str = ""
    """File for the rows, a JSON list, written as they come; empty for none."""
    quick: bool = False
    """A shorter measurement: less precise."""

    def __post_init__(self):
        check_fields(self)
