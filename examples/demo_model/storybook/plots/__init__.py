"""What may happen in a story: one function a plot."""
