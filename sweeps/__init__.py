"""Sweeps that come along, for `bmg sweep NAME`."""
