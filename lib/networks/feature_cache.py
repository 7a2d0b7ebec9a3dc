"""What frozen layers make of images: computed once, kept in half precision, checked when read."""

import contextlib
import hashlib
import inspect
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lib import paths
from lib.networks import array_files, batching, inference, model_graph
from lib.networks.backend import keras, versions

PROGRESS_SECONDS = 60  # of work that a kill may cost
ROWS = 256  # that are read at once
NOTE = {"key", "sha256"}  # what a note has


def cache_features(
    trunk: keras.Model,
    images: np.ndarray,
    rows: np.ndarray,
    target: Path,
    *,
    views: int,
    batch_size: int = 32,
    augmented: bool = True,
) -> list[np.ndarray]:
    """Compute what frozen layers make of images, unless it is kept already, and open it.

    What is kept is taken only if it was computed from these images by these layers, and is whole:
    its note, `<target>.json`, holds the SHA-256 of every file. Killed on the way, the computation
    goes on where it was, with the same result: what a random layer draws for a batch depends on
    the view and the batch alone.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
        Which images.
    target : Path
        Without a suffix; output i of the trunk goes to `<target>_<i>.npy`.
    views : int
        1: the plain image. Each further view is augmented by the trunk's own layers or, if
        `augmented` is false, one of the eight flips and quarter turns (`training.turned`).

    Returns
    -------
    list of ndarray of float16, shape (views * n, ...), memory-mapped
        One for each output of the trunk. View v of the i-th row is at v * n + i.

    Raises
    ------
    ValueError
        A value is too large for half precision, or not a number.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    files = [target.with_name(f"{target.name}_{i}.npy") for i in range(len(trunk.outputs))]
    note = target.with_name(f"{target.name}.json")
    key = _key(trunk, images, rows, views, batch_size, augmented)
    if not _is_whole(files, note, key):
        with _states_kept(trunk):
            _compute(
                trunk, images, np.asarray(rows), files, note, key, views, batch_size, augmented
            )
    return [np.load(file, mmap_mode="r") for file in files]


@contextlib.contextmanager
def _states_kept(trunk: keras.Model) -> Iterator[None]:
    """Let random layers draw next what they would have drawn without the block."""
    before = [
        (state, model_graph.to_numpy(state).copy()) for state in model_graph.random_states(trunk)
    ]
    try:
        yield
    finally:
        for state, value in before:
            state.assign(value)


def _key(trunk, images, rows, views, batch_size, augmented) -> dict:
    rows = np.asarray(rows)
    return {
        "layers": model_graph.layers_digest(trunk),
        "weights": model_graph.weights_digest(trunk),
        "images": array_files.fingerprint(images),
        "rows": array_files.fingerprint(rows),
        "views": views,
        "batch_size": batch_size,
        "augmented": augmented,
        "code": _CODE,
        "versions": versions(),
    }


def _is_whole(files: Sequence[Path], note: Path, key: dict) -> bool:
    """Say whether the files hold what the key says; a damaged one is named, and not taken."""
    kept = paths.read_note(note, NOTE, "the features are computed anew")
    if kept.get("key") != key:
        return False
    for file in files:
        if not file.is_file() or array_files.file_digest(file) != kept["sha256"].get(file.name):
            print(f"{paths.relative(file)}: missing or damaged, so it is computed anew", flush=True)
            return False
    return True


def _compute(trunk, images, rows, files, note, key, views, batch_size, augmented) -> None:
    partial = [paths.temporary(file) for file in files]
    progress = paths.temporary(note)
    shapes = [(views * len(rows), *output.shape[1:]) for output in trunk.outputs]
    done, digests = _progress(progress, key, partial, shapes)
    note.unlink(missing_ok=True)
    if not done:
        for file in partial:
            file.unlink(missing_ok=True)
    needed = sum(2 * math.prod(shape) for shape in shapes) * (1 - done / (views * len(rows)))
    paths.require_space(note.parent, needed, note.stem)
    mode = "r+" if done else "w+"
    features = [
        np.lib.format.open_memmap(file, mode, np.float16, shape)
        for file, shape in zip(partial, shapes, strict=True)
    ]
    written = time.monotonic()
    for number, (view, start) in enumerate(_batches(views, len(rows), batch_size)):
        first = view * len(rows) + start
        if first < done:
            continue
        batch = images[rows[start : start + batch_size]]
        batching.let_go(images, batch.nbytes)
        if augmented:
            _set_draws(trunk, number)
        else:
            batch = inference.turned(batch, view)
        made = inference.call(trunk, batch, training=augmented and view > 0)
        outputs = made if len(files) > 1 else [made]
        for kept, digest, values, file in zip(features, digests, outputs, files, strict=True):
            kept[first : first + len(batch)] = half = _half(values, file)
            digest.update(np.ascontiguousarray(half))
            batching.let_go(kept, half.nbytes)
        if time.monotonic() - written > PROGRESS_SECONDS:
            for kept in features:
                kept.flush()
            said = {"done": first + len(batch), "sha256": [each.hexdigest() for each in digests]}
            paths.write_text(progress, json.dumps({"key": key} | said))
            written = time.monotonic()
    for kept in features:
        kept.flush()
    sha256 = {file.name: array_files.file_digest(p) for file, p in zip(files, partial, strict=True)}
    for file, made in zip(files, partial, strict=True):
        os.replace(made, file)
    paths.write_text(note, json.dumps({"key": key, "sha256": sha256}, indent=1) + "\n")
    progress.unlink(missing_ok=True)


def _batches(views: int, n: int, batch_size: int):
    return [(view, start) for view in range(views) for start in range(0, n, batch_size)]


def _progress(file: Path, key: dict, partial: Sequence[Path], shapes: Sequence[tuple]) -> tuple:
    """Return how many rows an attempt that was broken off has written, and their digests so far.

    No rows, and digests of nothing, if its files do not hold what its note says of them.
    """
    digests = [hashlib.sha256() for _ in partial]
    kept = paths.read_note(file, NOTE, "the features are computed anew")
    if kept.get("key") != key:
        return 0, digests
    for each, shape, digest, expected in zip(partial, shapes, digests, kept["sha256"], strict=True):
        try:
            found = np.load(each, mmap_mode="r")  # cut short, it cannot be mapped
            right = (found.shape, found.dtype) == (shape, np.float16)
        except (OSError, ValueError, EOFError):
            right = False
        if right:
            for start in range(0, kept["done"], ROWS):
                rows = found[start : min(start + ROWS, kept["done"])]
                digest.update(np.ascontiguousarray(rows))
                batching.let_go(found, rows.nbytes)
        if not right or digest.hexdigest() != expected:
            print(f"{paths.relative(each)}: missing or damaged, so it is begun anew", flush=True)
            return 0, [hashlib.sha256() for _ in partial]
    return kept["done"], digests


def _set_draws(trunk: keras.Model, number: int) -> None:
    """Make what random layers draw next depend on a number alone."""
    for state in model_graph.random_states(trunk):
        seed = model_graph.to_numpy(state)[0]
        state.assign(np.array([seed, number * 1000], model_graph.to_numpy(state).dtype))


def _half(values: np.ndarray, file: Path) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    wrong = values[~np.isfinite(half)]
    if len(wrong):
        raise ValueError(
            f"{paths.relative(file)}: found the value {wrong[0]}; half precision ends at "
            f"{np.finfo(np.float16).max}"
        )
    return half


#: A SHA-256 of the code that decides what is kept, layers apart; of the code as it was imported.
_CODE = hashlib.sha256(
    "".join(
        inspect.getsource(part)
        for part in (_compute, _batches, _set_draws, _half, inference.turned, inference.call)
    ).encode()
).hexdigest()
