"""Images and labels: one source a file."""
