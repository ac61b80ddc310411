"""Has a number really dropped? Run records against a stored baseline."""
