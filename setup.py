"""Everything stands in pyproject.toml; this serves the tools that still look for a setup.py."""

from setuptools import setup

setup()
