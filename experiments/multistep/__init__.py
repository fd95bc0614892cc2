"""Multi-step and mixed meta-gradients (Bonnet et al. 2021): the Markov reward process and Snake."""
