"""Many runs of `bmg train` from one file."""
