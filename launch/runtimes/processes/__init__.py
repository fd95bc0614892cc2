"""Processes around a Reverb server: the only importers of Launchpad."""
