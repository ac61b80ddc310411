"""What every run shares: its folder, its record, its log, its errors. Imports nothing else of this project."""

__version__ = "0.2.0"
