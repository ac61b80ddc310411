"""A check of a machine: each section measures one part of the project on it and compares it with a limit."""
