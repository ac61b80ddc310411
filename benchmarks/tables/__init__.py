"""The papers' tables and figures as data, and the sizes at which they are run.

`load("table5")` is a table with its published values; a notebook shows it.
"""

from benchmarks.tables.table import load as load
