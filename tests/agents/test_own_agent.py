"""An agent of one's own: one file outside of the package, trained by the whole program."""
