"""Preprocess the images of a run once into one array, `images.npy`, resumably and in small memory.

Beside `images.npy` lie `images.keys`, 32 bytes a row that identify what the row was made from (the
image file, the settings, the code), and the note `images.json`, written last. Until it is complete
the array has another name, and its keys tell which rows are done: a row is on the disk before its
key.
"""

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import cv2
import numba
import numpy as np
import pandas as pd
from IPython import get_ipython
from tqdm import tqdm

from lib import paths, stages
from lib.config import Config, Preprocessing
from lib.preprocessing import pipeline, threads

KEY_BYTES = hashlib.sha256().digest_size
CHUNK_BYTES = 32 * 2**20  # of rows in memory at a time; at least one row a core
#: The code that decides about pixels, as it was when it was imported: the code that runs.
_SOURCES = stages.code_of("images")


def write_images(
    index: pd.DataFrame, folder: Path, config: Config, progress: bool | None = None
) -> dict[str, int]:
    """Preprocess every image of a run into `images.npy`; row i is row i of the index.

    A row is taken over from the last array, or from an attempt that was interrupted, if the image
    file, the settings, the code that decodes and preprocesses, and the versions of OpenCV and
    Numba are the same. The array is the same either way, on any number of cores. Memory holds at
    most `CHUNK_BYTES` of rows, and one decoded image a core.

    Parameters
    ----------
    folder : Path
        The data folder, which the paths of the index are relative to.
    progress : bool, optional
        Whether to draw a bar on stderr; by default in a terminal and in JupyterLab, but not in a
        notebook that is executed to a file.

    Returns
    -------
    dict of int
        The number of rows that were `processed`, and that were `taken_over`.

    Raises
    ------
    FileNotFoundError, ValueError
        A missing or broken image; rows that are done stay for the next attempt. Or code that was
        changed after it was imported.
    OSError
        Too little space on the disk.
    """
    target = paths.run_folder(config.name) / "images.npy"
    files = [folder / path for path in index["path"]]
    is_hidden, processed = not (_is_watched() if progress is None else progress), 0
    bar = tqdm(desc="images", total=len(files), disable=is_hidden, leave=False)
    with threads.one_opencv_thread(), bar:
        keys = _file_keys(files, config.preprocessing)
        finished = _read_keys(target, _shape(index, config))
        if np.array_equal(finished, keys):
            for left_over in (_keys_file(paths.temporary(target)), paths.temporary(target)):
                left_over.unlink(missing_ok=True)
        else:
            processed = _write_rows(target, files, keys, finished, config.preprocessing, bar)
    _write_note(target.with_suffix(".json"), _contents(index, config))
    return {"processed": processed, "taken_over": len(files) - processed}


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
    images = np.load(file, mmap_mode="r")
    if images.shape != _shape(index, config) or images.dtype != np.uint8:
        raise ValueError(
            f"{paths.relative(file)} holds {images.dtype} of shape {images.shape}; expected uint8 "
            f"of shape {_shape(index, config)}"
        )
    return images


def _write_rows(
    target: Path,
    files: list[Path],
    keys: np.ndarray,
    finished: np.ndarray,
    settings: Preprocessing,
    bar: tqdm,
) -> int:
    """Complete the partial array and rename it; return how many images were processed.

    Parameters
    ----------
    keys, finished : ndarray of uint8, shape (n, KEY_BYTES) and (m, KEY_BYTES)
        Of the rows to write, and of those in the existing array.
    """
    partial, size = paths.temporary(target), settings.image_size
    shape, row_bytes = (len(files), size, size, 3), size * size * 3
    missing = _prepare_partial(partial, shape, keys)
    paths.require_space(target.parent, len(missing) * row_bytes, target.name)
    start = _header_bytes(partial)
    known = {}  # from the key of a finished row to its place in the file
    if len(finished):
        first = _header_bytes(target)
        known = {key.tobytes(): first + i * row_bytes for i, key in enumerate(finished)}

    def make(row: int) -> tuple[bool, np.ndarray]:
        offset = known.get(keys[row].tobytes())
        if offset is None:
            return True, pipeline.prepare(files[row], settings)
        # read, not mapped: mapped pages count as memory
        return False, np.fromfile(target, np.uint8, row_bytes, offset=offset)

    processed, workers = 0, os.cpu_count() or 1
    chunk = max(workers, min(16 * workers, CHUNK_BYTES // row_bytes))
    bar.update(len(files) - len(missing))
    with partial.open("r+b") as array, _keys_file(partial).open("r+b") as done:
        for i in range(0, len(missing), chunk):
            rows = missing[i : i + chunk]
            results = threads.map_files(make, rows)
            _write(array, start + rows * row_bytes, [image for _, image in results])
            _write(done, rows * KEY_BYTES, keys[rows])
            processed += sum(is_new for is_new, _ in results)
            bar.update(len(rows))
    target.with_suffix(".json").unlink(missing_ok=True)
    _keys_file(target).unlink(missing_ok=True)  # keys must never lie beside another array
    os.replace(partial, target)
    os.replace(_keys_file(partial), _keys_file(target))
    return processed


def _prepare_partial(partial: Path, shape: tuple[int, ...], keys: np.ndarray) -> np.ndarray:
    """Create the partial array, or forget its outdated rows; return the rows that are missing."""
    done = _read_keys(partial, shape)
    if len(done) != len(keys):
        _keys_file(partial).unlink(missing_ok=True)
        np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        done = np.zeros_like(keys)
    missing = (done != keys).any(axis=1)
    done[missing] = 0
    done.tofile(_keys_file(partial))
    return np.flatnonzero(missing)


def _write(file: BinaryIO, offsets: np.ndarray, pieces: Iterable[np.ndarray]) -> None:
    """Write each piece at its offset, and wait until all are on the disk."""
    for offset, piece in zip(offsets.tolist(), pieces, strict=True):
        file.seek(offset)
        file.write(np.ascontiguousarray(piece))
    file.flush()
    os.fsync(file.fileno())


def _read_keys(array: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return the keys of an array's rows, zero where a row is not done.

    None, that is shape (0, KEY_BYTES), if there is no such array, if its rows have another shape,
    or if a file is damaged, with a warning.
    """
    file, none = _keys_file(array), np.zeros((0, KEY_BYTES), np.uint8)
    if not file.is_file():
        return none
    try:
        images = np.load(array, mmap_mode="r")
        keys = np.fromfile(file, np.uint8).reshape(-1, KEY_BYTES)
        if len(keys) == len(images):
            return keys if images.shape[1:] == shape[1:] else none
    except (FileNotFoundError, ValueError, EOFError):  # how np.load reports a damaged file
        pass
    warnings.warn(
        f"{paths.relative(array)}: the array or {file.name} was cut short; it is started over",
        stacklevel=2,
    )
    return none


def _file_keys(files: list[Path], settings: Preprocessing) -> np.ndarray:
    """Return the SHA-256 of all that makes each row, shape (n, KEY_BYTES)."""
    for source, tree in stages.code_of("images").items():
        if tree != _SOURCES[source]:
            raise ValueError(
                f"{source} was changed after it was imported; restart Python (in a notebook: the "
                "kernel)"
            )
    origin = {"preprocessing": settings.model_dump(), "code": _code()}
    start = hashlib.sha256(json.dumps(origin, sort_keys=True).encode())

    def key(file: Path) -> bytes:
        try:
            with file.open("rb") as data:
                return hashlib.file_digest(data, start.copy).digest()
        except FileNotFoundError:
            raise FileNotFoundError(f"{paths.relative(file)}: no such image") from None

    digests = b"".join(threads.map_files(key, files))
    return np.frombuffer(digests, np.uint8).reshape(-1, KEY_BYTES)


def _code() -> str:
    """Return the SHA-256 of the code that makes a pixel and of the versions of its libraries."""
    versions = f"{cv2.__version__} {numba.__version__}"
    return hashlib.sha256("".join([*_SOURCES.values(), versions]).encode()).hexdigest()


def _keys_file(array: Path) -> Path:
    return array.with_suffix(".keys")


def _header_bytes(array: Path) -> int:
    return np.load(array, mmap_mode="r").offset


def _is_watched() -> bool:
    """Return whether a person sees stderr: in a terminal, or in a cell that a front end sent.

    JupyterLab names the cell in the metadata of its request; papermill and nbval do not.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    request = kernel.get_parent().get("metadata", {}) if kernel else {}
    return sys.stderr.isatty() or "cellId" in request


def _shape(index: pd.DataFrame, config: Config) -> tuple[int, int, int, int]:
    return len(index), config.preprocessing.image_size, config.preprocessing.image_size, 3


def _contents(index: pd.DataFrame, config: Config) -> dict:
    return {
        "shape": list(_shape(index, config)),
        "image_ids_sha256": hashlib.sha256("\n".join(index["image_id"]).encode()).hexdigest(),
        "folder": config.data.folder,
        "preprocessing": config.preprocessing.model_dump(),
        "code": _code(),
    }


def _write_note(note: Path, contents: dict) -> None:
    """Write the note unless it has these contents already: make compares its time."""
    text = json.dumps(contents, indent=1) + "\n"
    if not note.is_file() or note.read_text(encoding="utf-8") != text:
        paths.write_text(note, text)
