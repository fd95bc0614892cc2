"""Meta-gradients of any update rule: pure JAX, no reinforcement learning."""
