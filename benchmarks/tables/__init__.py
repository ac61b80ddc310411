"""The papers' tables and figures as data, the sizes at which they are run, and what was measured of them."""
