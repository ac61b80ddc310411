"""Imported first by the fork server: no coverage there, which slows Python down by half.

What a forked process covers is never written, as it ends by `os._exit`.
"""

import coverage

if (measured := coverage.Coverage.current()) is not None:
    measured.stop()
