"""Networks, losses and update rules of the agents: pure JAX functions."""
