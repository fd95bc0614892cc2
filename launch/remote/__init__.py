"""Actors on machines of their own: the gate of a run, and those who join through it."""
