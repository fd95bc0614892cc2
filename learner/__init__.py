"""The learner: an update on all devices, its data, its checkpoints and its metrics."""
