"""Several hosts as one run: a Cloud TPU slice, or processes on this machine."""
