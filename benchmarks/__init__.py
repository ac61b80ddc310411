"""The papers' tables, from run records; starts the other packages as commands."""
