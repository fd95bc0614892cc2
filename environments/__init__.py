"""Vectors of Atari games or of Catch behind one interface, and human-normalised scores."""
