"""Preprocess the images of a run once into one array, `images.npy`, resumably and in small memory.

The note `images.json` beside it says what the array was made from (the image files, the settings,
the code) and how many rows are done. Until all are, the array and its note have other names.
"""

import hashlib
import json
import os
from pathlib import Path

import cv2
import numba
import numpy as np
import pandas as pd
from tqdm import tqdm

from lib import paths, stages
from lib.config import Config
from lib.preprocessing import pipeline, threads

CHUNK_BYTES = 32 * 2**20  # of rows in memory at a time; at least one row a core
#: The code that decides about pixels, as it was when it was imported: the code that runs.
_SOURCES = stages.code_of("images")


def write_images(index: pd.DataFrame, folder: Path, config: Config) -> int:
    """Preprocess every image of a run into `images.npy`; row i is row i of the index.

    Nothing is done if the array was made from the same image files, settings, code and versions of
    OpenCV and Numba. An attempt that was interrupted goes on where it ended. The array is the same
    on any number of cores. Memory holds `CHUNK_BYTES` of rows at most, and a decoded image a core.

    Parameters
    ----------
    folder : Path
        The data folder, which the paths of the index are relative to.

    Returns
    -------
    int
        How many images were processed.

    Raises
    ------
    FileNotFoundError, ValueError
        A missing or broken image; rows that are done stay for the next attempt. Or code that was
        changed after it was imported.
    OSError
        Too little space on the disk.
    """
    target = paths.run_folder(config.name) / "images.npy"
    partial, files = paths.temporary(target), [folder / path for path in index["path"]]
    with threads.one_opencv_thread():
        contents = _contents(index, config) | {"files": _digest(files)}
        if _rows_done(target, contents) == len(files):
            return 0
        done = _rows_done(partial, contents)
        if not done:
            np.lib.format.open_memmap(partial, "w+", np.uint8, _shape(index, config))
        row_bytes = 3 * config.preprocessing.image_size**2
        paths.require_space(target.parent, (len(files) - done) * row_bytes, target.name)
        bar = tqdm(desc="images", total=len(files), initial=done, disable=None, leave=False)
        with bar, partial.open("r+b") as array:
            array.seek(np.load(partial, mmap_mode="r").offset + done * row_bytes)
            workers = os.cpu_count() or 1
            chunk = max(workers, min(16 * workers, CHUNK_BYTES // row_bytes))
            for i in range(done, len(files), chunk):
                rows = threads.map_files(
                    lambda file: pipeline.prepare(file, config.preprocessing), files[i : i + chunk]
                )
                array.write(np.stack(rows))
                array.flush()
                os.fsync(array.fileno())
                note = json.dumps(contents | {"done": i + len(rows)}, indent=1) + "\n"
                paths.write_text(_note(partial), note)
                bar.update(len(rows))
    _note(target).unlink(missing_ok=True)  # a note must never lie beside another array
    os.replace(partial, target)
    os.replace(_note(partial), _note(target))
    return len(files) - done


def open_images(index: pd.DataFrame, config: Config) -> np.ndarray:
    """Open `images.npy` and check that it was made from this index with these settings.

    Returns
    -------
    ndarray of uint8, shape (n, image_size, image_size, 3), RGB, memory-mapped, read-only

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such array, or it was made from something else.
    """
    file = paths.run_folder(config.name) / "images.npy"
    paths.check_note(file, _contents(index, config), "notebook 02")
    return np.load(file, mmap_mode="r")


def _rows_done(array: Path, contents: dict) -> int:
    """Return how many rows of an array are done; none if it has other contents or is damaged."""
    note = paths.read_note(_note(array), {"done"}, f"{array.name} is made again")
    done = note.pop("done", 0)
    if note != contents:
        return 0
    try:
        np.load(array, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError):  # how np.load reports a damaged file
        print(f"{paths.relative(array)} was cut short; it is made again", flush=True)
        return 0
    return done


def _note(array: Path) -> Path:
    return array.with_suffix(".json")


def _digest(files: list[Path]) -> str:
    """Return the SHA-256 of the contents of all files."""
    for source, tree in stages.code_of("images").items():
        if tree != _SOURCES[source]:
            raise ValueError(
                f"{source} was changed after it was imported; restart Python (in a notebook: the "
                "kernel)"
            )

    def digest(file: Path) -> bytes:
        try:
            with file.open("rb") as data:
                return hashlib.file_digest(data, "sha256").digest()
        except FileNotFoundError:
            raise FileNotFoundError(f"{paths.relative(file)}: no such image") from None

    return hashlib.sha256(b"".join(threads.map_files(digest, files))).hexdigest()


def _shape(index: pd.DataFrame, config: Config) -> tuple[int, int, int, int]:
    return len(index), config.preprocessing.image_size, config.preprocessing.image_size, 3


def _contents(index: pd.DataFrame, config: Config) -> dict:
    versions = f"{cv2.__version__} {numba.__version__}"
    return {
        "shape": list(_shape(index, config)),
        "image_ids_sha256": hashlib.sha256("\n".join(index["image_id"]).encode()).hexdigest(),
        "folder": config.data.folder,
        "preprocessing": config.preprocessing.model_dump(),
        "code": hashlib.sha256("".join([*_SOURCES.values(), versions]).encode()).hexdigest(),
    }
