"""Processes that act: actors stream unrolls, evaluators report scores."""
