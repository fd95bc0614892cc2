"""Where a run's nodes run: as processes that Launchpad starts, or as threads of one process."""
