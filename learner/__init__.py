"""The learner: a pmapped update, its data, its checkpoints and its metrics."""
