"""What pyproject.toml has no word for: a `.pth` file, by which Python's start imports `siamese_transfer.shadowing`."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = 'import sys; sys.argv[:1] == ["-m"] and __import__("siamese_transfer.shadowing")\n'


class BuildWithPth(build_py):
    """Build the packages, and put the file beside them."""

    def run(self) -> None:
        """Called by setuptools, for a wheel; an editable installation has no such file."""
        super().run()
        Path(self.build_lib, "siamese_transfer.pth").write_text(PTH, encoding="utf-8")


setup(cmdclass={"build_py": BuildWithPth})
