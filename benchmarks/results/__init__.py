"""What was measured: run records, the trials of a number, and the tables filled with both."""
