"""The papers' experiments beside Atari: an environment, an agent and a meta-objective each."""
