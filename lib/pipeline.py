"""The images of a run: preprocessed once, into one array."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd

from lib import datasets, paths
from lib.config import Config
from lib.preprocessing import preprocess_image


def write_images(index: pd.DataFrame, folder: Path, config: Config) -> Path:
    """Preprocess every image of a run into `images.npy`, and say in `images.json` what it holds.

    The array is a memory-mapped file, so memory does not grow with the number of images.

    Returns
    -------
    Path
        ndarray of uint8, shape (n, image_size, image_size, 3), RGB; row i is row i of the index.
    """
    target = paths.run_folder(config.name) / "images.npy"
    partial = paths.temporary(target)
    size = config.preprocessing.image_size
    array = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(index), size, size, 3))

    def process(row: int) -> None:
        image = datasets.read_image(folder / index["path"].iloc[row])
        array[row] = preprocess_image(image, config.preprocessing)

    try:
        datasets.map_files(process, range(len(index)))
        array.flush()
    except BaseException:
        partial.unlink()
        raise
    note = target.with_suffix(".json")
    note.unlink(missing_ok=True)
    os.replace(partial, target)
    paths.write_text(note, json.dumps(_contents(index, config), indent=1) + "\n")
    return target


def open_images(index: pd.DataFrame, config: Config) -> np.ndarray:
    """Open `images.npy` and check that it was made from this index with these settings.

    Returns
    -------
    ndarray of uint8, shape (n, image_size, image_size, 3), RGB, memory-mapped, read-only
    """
    file = paths.run_folder(config.name) / "images.npy"
    expected = _contents(index, config)
    paths.check_note(file, expected, "notebook 02")
    images = np.load(file, mmap_mode="r")
    if list(images.shape) != expected["shape"] or images.dtype != np.uint8:
        raise ValueError(
            f"{paths.relative(file)} holds {images.dtype} of shape {images.shape}; expected uint8 "
            f"of shape {tuple(expected['shape'])}"
        )
    return images


def _contents(index: pd.DataFrame, config: Config) -> dict:
    size = config.preprocessing.image_size
    rows = "\n".join(index["image_id"]).encode()
    return {
        "shape": [len(index), size, size, 3],
        "image_ids_sha256": hashlib.sha256(rows).hexdigest(),
        "folder": config.data.folder,
        "preprocessing": config.preprocessing.model_dump(),
    }
