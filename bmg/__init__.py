"""Bootstrapped meta-gradients for reinforcement learning.

In a checkout the parts of the package (`bmg.meta`, `bmg.agents`, ...) stand beside this folder.
"""

__version__ = "0.1.0"
