"""Measure the parts of the speed study, one after the other."""

import sys
from collections.abc import Iterator
from pathlib import Path

from studies import command
from studies.speed import preprocessing, recipe, training


def measure(folder: Path) -> Iterator[Path]:
    """Time preprocessing and training on the images of a folder, and the recipe on noise."""
    yield from preprocessing.measure(folder)
    yield from training.measure(folder)
    yield from recipe.measure(training.configuration(training.FULL))


if __name__ == "__main__":
    sys.exit(command.main("Measure the speed of preprocessing and of training.", measure))
