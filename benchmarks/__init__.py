"""What is measured rather than asserted; run with `bmg benchmark NAME`."""
