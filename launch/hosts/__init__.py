"""Several hosts as one run: a batch system's, a Cloud TPU slice, or processes on this machine."""
