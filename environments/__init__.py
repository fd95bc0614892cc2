"""Vectors of Atari games or of Catch behind one interface, environments that are part of a compiled
program behind another, and human-normalised scores."""
