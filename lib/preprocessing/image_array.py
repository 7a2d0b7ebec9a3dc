"""The images of a run, preprocessed once into one array: streamed, resumable, keyed by content.

Beside `images.npy` lie `images.keys`, 32 bytes a row that say what the row was made from, and the
note `images.json`, written last. Until it is whole, the array has another name, and its keys say
which rows are done: a row is on the disk before its key.
"""

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import cv2
import numba
import numpy as np
import pandas as pd
from IPython import get_ipython
from tqdm import tqdm

from lib import paths
from lib.config import Config, Preprocessing
from lib.preprocessing import (
    area_average,
    bubbles,
    color_correction,
    compiled,
    decode,
    hair,
    inpainting,
    pipeline,
    threads,
)

KEY_BYTES = hashlib.sha256().digest_size

CHUNK_BYTES = 32 * 2**20  # of rows made at a time; at least one a core

#: The code that makes a row of a file, read with the import: the code that runs.
_SOURCES = {
    Path(module.__file__): Path(module.__file__).read_bytes()
    for module in (
        decode,
        pipeline,
        area_average,
        hair,
        bubbles,
        inpainting,
        color_correction,
        compiled,
    )
}


def write_images(
    index: pd.DataFrame, folder: Path, config: Config, progress: bool | None = None
) -> dict[str, int]:
    """Preprocess every image of a run into `images.npy`; row i is row i of the index.

    Only what is not there yet is processed: a row is taken over from the last array, or from an
    attempt that was broken off, if the image file, the settings, the code that decodes and
    preprocesses, and the versions of OpenCV and Numba are the same. The array is the same either
    way, on any number of cores. In memory are two chunks of rows (`CHUNK_BYTES`), and a decoded
    image a core.

    Parameters
    ----------
    folder : Path
        What the paths of the index are relative to.
    progress : bool, optional
        Whether to draw a bar on stderr; by default where a person watches: in a terminal and in
        JupyterLab, but not in a notebook that is executed to a file.

    Returns
    -------
    dict of int
        How many rows were `processed`, and how many `taken_over`.

    Raises
    ------
    FileNotFoundError, ValueError
        An image that is missing or broken; what was done before it stays for the next attempt.
    OSError
        Too little space on the disk.
    """
    target = paths.run_folder(config.name) / "images.npy"
    shape, files = _shape(index, config), index["path"].to_numpy()
    file_key = _file_key(config.preprocessing)

    def key(row: int) -> bytes:
        return file_key(folder / files[row])

    def process(row: int) -> np.ndarray:
        return pipeline.prepare(folder / files[row], config.preprocessing)

    _mend_names(target)
    finished = _read_keys(target, shape)
    shown = _is_watched() if progress is None else progress
    with (
        threads.one_opencv_thread(),
        tqdm(desc="images", total=len(files), disable=not shown, leave=False) as bar,
    ):
        if _is_current(finished, shape, key, bar):
            counts = {"processed": 0, "taken_over": len(files)}
            _remove(paths.temporary(target))  # what an attempt with other settings left
        else:
            bar.reset()
            counts = _fill(target, shape, finished, key, process, bar)
    _write_note(target.with_suffix(".json"), _contents(index, config))
    return counts


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
    if images.shape != _shape(index, config) or images.dtype != np.uint8:
        raise ValueError(
            f"{paths.relative(file)} holds {images.dtype} of shape {images.shape}; expected uint8 "
            f"of shape {_shape(index, config)}"
        )
    return images


def _fill(
    target: Path,
    shape: tuple[int, ...],
    finished: np.ndarray | None,
    key: Callable[[int], bytes],
    process: Callable[[int], np.ndarray],
    bar: tqdm,
) -> dict[str, int]:
    """Make every row that the partial array lacks, then give it and its keys their names.

    Parameters
    ----------
    finished : ndarray of uint8, shape (m, KEY_BYTES), optional
        The keys of the array that is there already, whose rows may be taken over.
    """
    partial = paths.temporary(target)
    row_bytes = int(np.prod(shape[1:]))
    done = _resume(partial, shape)
    missing = int((~done.any(axis=1)).sum())
    paths.require_space(target.parent, missing * row_bytes, target.name)
    start = _header_bytes(partial)
    known = {}  # key to offset in the finished array
    if finished is not None:
        first = _header_bytes(target)
        known = {name.tobytes(): first + i * row_bytes for i, name in enumerate(finished)}
    counts = {"processed": 0, "taken_over": 0}

    def make(row: int) -> tuple[bytes, np.ndarray | None, str]:
        name = key(row)
        if name == done[row].tobytes():
            return name, None, "taken_over"
        if name in known:  # read, not mapped: mapped pages count as memory
            return name, np.fromfile(target, np.uint8, row_bytes, offset=known[name]), "taken_over"
        image = process(row)
        if image.shape != shape[1:] or image.dtype != np.uint8:
            raise ValueError(f"row {row}: {image.dtype} of shape {image.shape}; expected {shape}")
        return name, np.ascontiguousarray(image), "processed"

    with partial.open("r+b") as array, _keys_file(partial).open("r+b") as keys:
        for rows in _chunks(shape, bar):
            made = dict(zip(rows, threads.map_files(make, rows), strict=True))
            new = {row: each for row, each in made.items() if each[1] is not None}
            outdated = [row for row in new if done[row].any()]
            _write(keys, {row * KEY_BYTES: bytes(KEY_BYTES) for row in outdated})
            _write(array, {start + row * row_bytes: new[row][1] for row in new})
            _write(keys, {row * KEY_BYTES: new[row][0] for row in new})
            for _, _, how in made.values():
                counts[how] += 1
    target.with_suffix(".json").unlink(missing_ok=True)
    _keys_file(target).unlink(missing_ok=True)  # so that no array ever has another one's
    os.replace(partial, target)
    _mend_names(target)
    return counts


def _mend_names(target: Path) -> None:
    """Let the keys follow an array that got its name, also where a kill came between the two."""
    partial = paths.temporary(target)
    left_behind = _keys_file(partial).exists() and not partial.exists()
    if left_behind and target.exists() and not _keys_file(target).exists():
        os.replace(_keys_file(partial), _keys_file(target))


def _chunks(shape: tuple[int, ...], bar: tqdm) -> Iterator[range]:
    """Yield the rows of an array, a few for every core at a time, and move the bar."""
    workers = os.cpu_count() or 1
    length = max(workers, min(16 * workers, CHUNK_BYTES // int(np.prod(shape[1:]))))
    for first in range(0, shape[0], length):
        rows = range(first, min(first + length, shape[0]))
        yield rows
        bar.update(len(rows))


def _header_bytes(array: Path) -> int:
    return np.load(array, mmap_mode="r").offset


def _write(file: BinaryIO, pieces: dict[int, bytes | np.ndarray]) -> None:
    """Write each piece at its offset, and wait until all are on the disk."""
    if pieces:
        for offset, piece in pieces.items():
            file.seek(offset)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _is_watched() -> bool:
    """Say whether a person sees stderr: in a terminal, or where a front end sent this cell.

    JupyterLab names the cell in the metadata of its request; papermill and nbval do not.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    sent = kernel.get_parent().get("metadata", {}) if kernel else {}
    return sys.stderr.isatty() or "cellId" in sent


def _file_key(settings: Preprocessing) -> Callable[[Path], bytes]:
    """Return the function from an image file to its key: SHA-256 of all that makes the row."""
    for source, read in _SOURCES.items():
        if source.read_bytes() != read:
            raise ValueError(
                f"{paths.relative(source)} was changed after it was imported; restart Python (in "
                "a notebook: the kernel)"
            )
    said = {"preprocessing": settings.model_dump(), "code": _code()}
    start = hashlib.sha256(json.dumps(said, sort_keys=True).encode())

    def key(file: Path) -> bytes:
        try:
            with file.open("rb") as data:
                return hashlib.file_digest(data, start.copy).digest()
        except FileNotFoundError:
            raise FileNotFoundError(f"{paths.relative(file)}: no such image") from None

    return key


def _code() -> str:
    """Return the SHA-256 of the code that makes a row, with the versions of what it calls."""
    versions = f"{cv2.__version__} {numba.__version__}"
    return hashlib.sha256(b"".join(_SOURCES.values()) + versions.encode()).hexdigest()


def _keys_file(array: Path) -> Path:
    return array.with_suffix(".keys")


def _read_keys(array: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the keys of an array's rows, if both are whole and the rows have the right shape.

    Returns
    -------
    ndarray of uint8, shape (m, KEY_BYTES), zero where a row is not done; or None
    """
    file = _keys_file(array)
    if not file.is_file():
        return None
    keys = np.fromfile(file, np.uint8)
    try:
        images = np.load(array, mmap_mode="r")
        if keys.size == len(images) * KEY_BYTES:
            same = images.shape[1:] == shape[1:] and images.dtype == np.uint8
            return keys.reshape(-1, KEY_BYTES) if same else None
    except (FileNotFoundError, ValueError, EOFError):  # what np.load makes of a torn file
        pass
    warnings.warn(
        f"{paths.relative(array)}: the array or {file.name} was cut short; it is started over",
        stacklevel=2,
    )
    return None


def _remove(partial: Path) -> None:
    for file in (_keys_file(partial), partial):
        file.unlink(missing_ok=True)


def _resume(partial: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return the keys of the partial array; it is made, and they are zero, if there is none."""
    done = _read_keys(partial, shape)
    if done is not None and len(done) == shape[0]:
        return done
    _keys_file(partial).unlink(missing_ok=True)
    np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
    done = np.zeros((shape[0], KEY_BYTES), np.uint8)
    done.tofile(_keys_file(partial))
    return done


def _is_current(
    finished: np.ndarray | None, shape: tuple[int, ...], key: Callable[[int], bytes], bar: tqdm
) -> bool:
    """Compare every image with the finished array's keys, up to the first that differs."""
    return (
        finished is not None
        and len(finished) == shape[0]
        and all(
            threads.map_files(key, rows) == [finished[row].tobytes() for row in rows]
            for rows in _chunks(shape, bar)
        )
    )


def _shape(index: pd.DataFrame, config: Config) -> tuple[int, int, int, int]:
    return len(index), config.preprocessing.image_size, config.preprocessing.image_size, 3


def _contents(index: pd.DataFrame, config: Config) -> dict:
    rows = "\n".join(index["image_id"]).encode()
    return {
        "shape": list(_shape(index, config)),
        "image_ids_sha256": hashlib.sha256(rows).hexdigest(),
        "folder": config.data.folder,
        "preprocessing": config.preprocessing.model_dump(),
        "code": _code(),
    }


def _write_note(note: Path, contents: dict) -> None:
    """Write the note unless it says so already."""
    text = json.dumps(contents, indent=1) + "\n"
    if not note.is_file() or note.read_text(encoding="utf-8") != text:
        paths.write_text(note, text)
