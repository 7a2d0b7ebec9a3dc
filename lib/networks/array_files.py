"""Arrays in files: written whole, checked when read, read row by row."""

import errno
import functools
import hashlib
import json
import mmap
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from lib import paths

#: The members of a file beside its arrays.
NOTE, DIGEST = "note", "sha256"

#: What NumPy and zipfile raise for a file that is truncated, altered or of another kind. An altered
#: byte may ask for any version of zip (NotImplementedError, a RuntimeError) or for any size.
DAMAGE = (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, RuntimeError)
DAMAGE += (MemoryError, zipfile.BadZipFile, zlib.error)


class DamagedFile(ValueError):
    """A file whose contents are not what was written."""


def write_arrays(file: Path, arrays: dict[str, np.ndarray], note: dict) -> Path:
    """Write named arrays and a note into one `.npz` file, whole or not at all.

    The file holds a SHA-256 over names, types, shapes and values, which `read_arrays` compares.

    Parameters
    ----------
    note : dict
        Whatever JSON can hold.

    Raises
    ------
    ValueError
        An array of Python objects, or one named like a member that the file has anyway.
    """
    text = json.dumps(note, sort_keys=True)
    arrays = {name: np.asarray(values, order="C") for name, values in arrays.items()}
    for name, values in arrays.items():
        if name in (NOTE, DIGEST) or values.dtype.hasobject:
            raise ValueError(
                f"{paths.relative(file)}: found array {name!r} of {values.dtype}; expected plain "
                f"values and a name other than {NOTE!r} and {DIGEST!r}"
            )
    members = {NOTE: np.array(text), DIGEST: np.array(_digest(arrays, text))}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = paths.temporary(file)
    with open(partial, "wb") as target:
        np.savez(target, **arrays, **members)
        target.flush()
        os.fsync(target.fileno())  # or a power cut might leave the name without the contents
    os.replace(partial, file)
    return file


def read_arrays(file: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Read the arrays and the note that `write_arrays` wrote.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    DamagedFile
        It is truncated or altered, or was not written by `write_arrays`.
    OSError
        The system cannot read it now; it may be whole.
    """
    try:
        with np.load(file, allow_pickle=False) as members:
            arrays = {name: members[name] for name in members.files}
        text, expected = str(arrays.pop(NOTE)), str(arrays.pop(DIGEST))
    except FileNotFoundError:
        raise FileNotFoundError(f"{paths.relative(file)}: no such file") from None
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise DamagedFile(f"{paths.relative(file)}: cannot be read ({error})") from None
    digest = _digest(arrays, text)
    if digest != expected:
        raise DamagedFile(f"{paths.relative(file)}: SHA-256 is {digest}; written with {expected}")
    return arrays, json.loads(text)


def read_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return rows of an array; those of a memory-mapped file are read from the file.

    Pages of a mapped file that were touched count as memory of the process: in the end all of
    them. Rows that are read are copies, and nothing else stays in memory.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)

    Returns
    -------
    ndarray, shape (n, ...)
    """
    file = _mapped_file(array)
    if file is None:
        return np.asarray(array[rows])
    rows = np.arange(len(array))[rows]
    values = np.empty((len(rows), *array.shape[1:]), array.dtype)
    with open(file, "rb") as stream:
        for i, row in enumerate(rows.tolist()):
            stream.seek(array.offset + row * array.strides[0])
            stream.readinto(values[i : i + 1])
    return values


def fingerprint(array: np.ndarray) -> str:
    """Return a SHA-256 over shape, type and values: equal arrays have equal fingerprints.

    A memory-mapped file is read piece by piece, and read again only when it has changed.
    """
    file = _mapped_file(array)
    if file is None:
        return _digest({"values": np.asarray(array, order="C")}, f"{array.shape} {array.dtype}")
    state = file.stat()
    values = _digest_of_state(file, state.st_mtime_ns, state.st_size)
    return _digest({}, f"{array.shape} {array.dtype} {values}")


def file_digest(file: Path) -> str:
    """Return a file's SHA-256, read piece by piece."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.lru_cache(maxsize=64)
def _digest_of_state(file: Path, modified: int, size: int) -> str:
    return file_digest(file)


def _mapped_file(array: np.ndarray) -> Path | None:
    """Return the file of an array that is a whole mapped file, and None for any other array.

    None also for a private mapping (`mode="c"`), whose changes are not in the file.
    """
    if not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap):
        return None
    file = Path(array.filename) if array.filename and array.mode != "c" else None
    whole = file and array.offset + array.nbytes == file.stat().st_size
    return file if whole and array.flags.c_contiguous else None


def _digest(arrays: dict[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values.view(np.uint8) if values.ndim and values.size else values.tobytes())
    return digest.hexdigest()
