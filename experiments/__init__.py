"""The papers' experiments beside Atari: one folder and one declaration each; what runs them all."""
