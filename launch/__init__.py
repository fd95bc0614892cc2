"""Commands, presets and the Launchpad program."""
