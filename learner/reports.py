"""What actors report of themselves, joined; an actor that is silent counts no more."""

from __future__ import annotations

import numpy as np

_USUAL_REPORT, _LONGEST_USUAL = 5.0, 60.0  # seconds between an actor's reports
_REPORTS_MISSED = 3.0  # after which an actor is taken for silent
_TOTALS = ("stalls", "not_finite_rewards")


class Report:
    """What an actor reported, and how long it counts."""

    def __init__(self, metrics: dict[str, float], now: float, before: Report | None):
        """Args: `now`, seconds; `before`, the same actor's last one."""
        self.metrics, self._at = metrics, now
        # An actor that reports more seldom (its unrolls take long) may be silent for longer.
        usual = min(now - before._at, _LONGEST_USUAL) if before else 0.0
        self._silence = _REPORTS_MISSED * max(usual, _USUAL_REPORT)

    def counts(self, now: float) -> bool:
        """Whether the actor may still do what it reported."""
        return now - self._at <= self._silence


def summarise_reports(reports: dict[str, Report], now: float) -> dict[str, float]:
    """Actors' reports in one: rates are summed and shares of time averaged over the actors that
    report at present, totals are summed over all."""
    if not reports:
        return {}
    current = [report.metrics for report in reports.values() if report.counts(now)]
    summary = {"actors/reporting": float(len(current)), "actors/steps_per_second": 0.0}
    for name in next(iter(reports.values())).metrics:
        values = [metrics[name] for metrics in current]
        if name in _TOTALS:
            summary[f"actors/{name}"] = float(sum(r.metrics[name] for r in reports.values()))
        elif name == "steps_per_second":
            summary[f"actors/{name}"] = float(sum(values))
        elif values:
            summary[f"actors_time/{name}"] = float(np.mean(values))
    return summary
