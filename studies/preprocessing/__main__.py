"""Measure the three parts of the preprocessing study, one after the other."""

import sys
from collections.abc import Iterator
from pathlib import Path

from lib.config import load_config
from lib.data import datasets
from studies import command
from studies.preprocessing import ablation, real_images, restoration


def measure(folder: Path) -> Iterator[Path]:
    """Measure on real images in a folder, and on the synthetic images of the demonstration."""
    synthetic = datasets.open_folder(load_config("configs/demo.yaml"))
    yield from restoration.measure(synthetic)
    yield from real_images.measure(folder)
    yield from ablation.measure(folder)


if __name__ == "__main__":
    sys.exit(command.main("Measure what preprocessing does.", measure))
