"""Measure the two parts of the speed study, one after the other."""

import sys
from collections.abc import Iterator
from pathlib import Path

from studies import command
from studies.speed import preprocessing, training


def measure(folder: Path) -> Iterator[Path]:
    """Time preprocessing, then training, on the images of a folder."""
    yield from preprocessing.measure(folder)
    yield from training.measure(folder)


if __name__ == "__main__":
    sys.exit(command.main("Measure the speed of preprocessing and of training.", measure))
