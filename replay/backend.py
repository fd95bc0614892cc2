"""The one place that imports Reverb and TensorFlow: quiet, few threads, no accelerator."""

import os

# Set before the import. The processes share their cores, and Reverb's own threads do the work.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import reverb
import tensorflow as tf
from reverb import pybind

tf.config.set_visible_devices([], "GPU")

__all__ = ["pybind", "reverb", "tf"]
