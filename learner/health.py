"""What a person should hear of while a run still looks well: a meta-learner that stands still."""

from __future__ import annotations

_FROZEN_SHARE = 0.01  # of Adam's whole steps
_FROZEN_UPDATES = 1000  # for which it lasts


class MetaLearnerWatch:
    """Looks at the rows of metrics; says once that the meta-parameters hardly move."""

    def __init__(self):
        self._since: int | None = None  # updates
        self._said = False

    def look(self, updates: int, metrics: dict[str, float]) -> str:
        """A line for the user, or nothing; called with every row.

        Args:
          updates: of the learner so far.
          metrics: the row's; those of `agents.agent.step_size_metrics` are looked at.
        """
        share, moved = metrics.get("meta/step_share"), metrics.get("meta/update_size")
        if share is None or moved is None or (share >= _FROZEN_SHARE and moved > 0):
            self._since = None
            return ""
        if self._since is None:
            self._since = updates
        lasts = updates - self._since
        if self._said or lasts < _FROZEN_UPDATES:
            return ""
        self._said = True
        what = "did not change in float32" if moved == 0 else "hardly moved"
        return (
            f"the meta-parameters {what} for {lasts:,} updates: the meta-gradient is far below "
            f"Adam's epsilon, which leaves {100 * share:.2g} % of whole steps; give "
            "--agent.loss.reduction sum, --agent.meta.matching-reduction sum, or a smaller "
            "--agent.meta.epsilon"
        )
