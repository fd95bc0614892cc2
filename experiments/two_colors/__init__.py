"""BMG section 5.1 and appendix B: what bootstrapping does, in minutes and without Atari."""
