"""The `bmg` command: its subcommands, and what starts and watches a run."""
