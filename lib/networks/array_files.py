"""Arrays in files that say by themselves whether they are whole: checkpoints, models, features."""

import errno
import functools
import hashlib
import json
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from lib import paths

NOTE, DIGEST = "note", "sha256"

#: What NumPy and zipfile raise for a file that is cut short, altered or another one.
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    AttributeError,
    RuntimeError,  # NotImplementedError with it: an altered byte may ask for any version of zip
    MemoryError,  # an altered shape may ask for any length
    zipfile.BadZipFile,
    zlib.error,
)


class DamagedFile(ValueError):
    """A file whose contents are not what was written."""


def write_arrays(file: Path, arrays: dict[str, np.ndarray], note: dict) -> Path:
    """Write named arrays and a note into one `.npz` file, whole or not at all.

    The file holds a SHA-256 over names, types, shapes and values, which `read_arrays` compares.

    Raises
    ------
    ValueError
        An array of Python objects, or one named as what the file holds beside the arrays.
    """
    text = json.dumps(note, sort_keys=True)
    arrays = {name: np.asarray(values, order="C") for name, values in arrays.items()}
    for name, values in arrays.items():
        if name in (NOTE, DIGEST) or values.dtype.hasobject:
            raise ValueError(
                f"{paths.relative(file)}: found array {name!r} of {values.dtype}; expected plain "
                f"values and a name other than {NOTE!r} and {DIGEST!r}"
            )
    digest = np.array(_digest(arrays, text))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = paths.temporary(file)
    with open(partial, "wb") as target:
        np.savez(target, **arrays, **{NOTE: np.array(text), DIGEST: digest})
        target.flush()
        os.fsync(target.fileno())  # or a power cut might leave the name without the contents
    os.replace(partial, file)
    return file


def read_arrays(file: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Read what `write_arrays` wrote.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    DamagedFile
        It is cut short or altered, or never was such a file.
    OSError
        The system does not let it be read now; it may be whole.
    """
    try:
        with np.load(file, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        text, digest = str(arrays.pop(NOTE)), str(arrays.pop(DIGEST))
    except FileNotFoundError:
        raise FileNotFoundError(f"{paths.relative(file)}: no such file") from None
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise DamagedFile(f"{paths.relative(file)}: cannot be read ({error})") from None
    found = _digest(arrays, text)
    if found != digest:
        raise DamagedFile(f"{paths.relative(file)}: SHA-256 is {found}; written with {digest}")
    return arrays, json.loads(text)


def fingerprint(array: np.ndarray) -> str:
    """Return a SHA-256 over shape, type and values: equal arrays have the same.

    Of an array that is the whole of a mapped file, the file is read piece by piece, and read again
    only when it has changed.
    """
    if isinstance(array, np.memmap) and array.filename is not None:
        file = Path(array.filename)
        state = file.stat()
        if array.offset + array.nbytes == state.st_size and array.flags.c_contiguous:
            values = _digest_of_state(file, state.st_mtime_ns, state.st_size)
            return _digest({}, f"{array.shape} {array.dtype} {values}")
    return _digest({"values": np.asarray(array, order="C")}, f"{array.shape} {array.dtype}")


@functools.lru_cache(maxsize=64)
def _digest_of_state(file: Path, modified: int, size: int) -> str:
    return file_digest(file)


def file_digest(file: Path) -> str:
    """Return a file's SHA-256, read piece by piece."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(arrays: dict[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values.view(np.uint8) if values.ndim and values.size else values.tobytes())
    return digest.hexdigest()
