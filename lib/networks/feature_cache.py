"""Outputs of frozen layers: computed once, cached in half precision, checked when read."""

import hashlib
import io
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lib import paths, stages
from lib.config import Transfer
from lib.networks import array_files, inference, model_graph
from lib.networks.backend import keras, may_use, versions

if TYPE_CHECKING:
    from lib.run import Run

#: Seconds of work that a kill may cost.
PROGRESS_SECONDS = 60


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
    """Compute the outputs of frozen layers, unless they are cached already, and open them.

    The note `<target>.json` says from which images and layers the files were computed, with which
    versions, how many rows they hold, and the SHA-256 of each. Files that were computed from
    others, or are damaged, are computed again; those of another backend are used
    (`backend.may_use`). A computation that was killed resumes, with the same result: what a random
    layer draws depends only on the view and the batch.

    Parameters
    ----------
    trunk : keras.Model
        The frozen layers, from images to one or several outputs.
    images : ndarray of uint8, shape (m, height, width, 3)
    rows : ndarray of int, shape (n,)
        Which images.
    target : Path
        Without a suffix; output i goes to `<target>_<i>.npy`.
    views : int
        1: the plain image. Each further view is augmented by the layers of `trunk` or, if
        `augmented` is false, one of the eight flips and quarter turns (`inference.turned`).

    Returns
    -------
    list of ndarray of float16, shape (views * n, ...), memory-mapped
        One for each output. View v of the i-th row is at v * n + i: see `batching.view_rows`.

    Raises
    ------
    ValueError
        A value is NaN, or too large for half precision.
    OSError
        The disk is too full.
    """
    rows = np.asarray(rows)
    n = views * len(rows)
    files = [
        _FeatureFile(target.with_name(f"{target.name}_{i}.npy"), (n, *output.shape[1:]))
        for i, output in enumerate(trunk.outputs)
    ]
    note = target.with_name(f"{target.name}.json")
    key = {
        "layers": model_graph.layers_digest(trunk),
        "weights": model_graph.weights_digest(trunk),
        "images": array_files.fingerprint(images),
        "rows": array_files.fingerprint(rows),
        "views": views,
        "batch_size": batch_size,
        "augmented": augmented,
        "code": _CODE,
        "made_with": versions() | {"number_formats": model_graph.number_formats(trunk)},
    }
    done = _check_files(files, note, key, n)
    if done < n:
        restore = model_graph.snapshot(trunk)
        try:
            _compute(trunk, images, rows, files, note, key, done)
        finally:
            restore()
    return [np.load(file.path, mmap_mode="r") for file in files]


class RunFeatures(NamedTuple):
    """The outputs of frozen layers for the images of a run."""

    #: for the training and the validation images, the features that the head takes
    head: dict[str, np.ndarray]
    #: the input of fine-tuning: maps for each split, or the images if maps are not cached
    fine_tune: dict[str, list[np.ndarray]] | np.ndarray
    #: of the plain images, row i of the index being row i, float32
    plain: np.ndarray
    #: of the held-out images in `test_time_views` views, from layers in float32
    held_out: np.ndarray


def cache_run(run: "Run", network: keras.Model, settings: Transfer) -> RunFeatures:
    """Cache all that the frozen layers of a network with a pretrained backbone output in a run.

    Parameters
    ----------
    run : lib.run.Run
    network : keras.Model
        From `building.build_for_training`, not trained yet.
    """
    folder, backbone = run.folder / settings.name, model_graph.split_before(network, "dense")[0]
    head, inputs = cache_training(run, network, settings)
    exact, rows = model_graph.in_float32(backbone), run.rows("train")
    views, held_out_rows = settings.test_time_views, run.held_out.index
    arguments = exact, run.images, held_out_rows, folder / "features_held_out"
    (held_out,) = cache_features(*arguments, views=views, augmented=False)
    train = head["train"][: len(rows)]  # the plain views
    note = json.loads((folder / "features_train.json").read_text(encoding="utf-8"))
    # what they were computed in, here or elsewhere
    if note["key"]["made_with"]["number_formats"] != model_graph.number_formats(exact):
        target = folder / "features_train_float32"
        (train,) = cache_features(exact, run.images, rows, target, views=1)
    plain = np.empty((len(run.index), train.shape[1]), np.float32)
    plain[rows], plain[held_out_rows] = train, held_out[: len(held_out_rows)]
    return RunFeatures(head, inputs, plain, held_out)


def cache_training(run: "Run", network: keras.Model, settings: Transfer) -> tuple:
    """Cache what training needs: `head` and `fine_tune` of `RunFeatures`."""
    folder, first_layer = run.folder / settings.name, settings.fine_tune.from_layer
    backbone, _ = model_graph.split_before(network, "dense")
    frozen_layers, _ = model_graph.split_before(network, first_layer)
    maps = frozen_layers.outputs if settings.fine_tune.cached else []
    extractor = keras.Model(network.input, [*maps, backbone.output])
    cached, batch_size = {}, settings.batch_size
    for split, views in {"train": settings.views, "validation": 1}.items():
        arguments = extractor, run.images, run.rows(split), folder / f"features_{split}"
        cached[split] = cache_features(*arguments, views=views, batch_size=batch_size)
    head = {split: arrays[-1] for split, arrays in cached.items()}
    inputs = {split: arrays[:-1] for split, arrays in cached.items()} if maps else run.images
    return head, inputs


class _FeatureFile:
    """A `.npy` file of float16 that rows are appended to, with the SHA-256 of its contents."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path, self.shape = path, shape
        self.row_bytes = 2 * math.prod(shape[1:])
        header = io.BytesIO()
        description = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, description)
        self.header = header.getvalue()
        self.digest = hashlib.sha256(self.header)

    def holds(self, n: int, sha256: str) -> bool:
        """Say whether n rows have this SHA-256; rows after them are removed."""
        if not self.path.is_file():
            return False
        with open(self.path, "r+b") as stream:
            stream.truncate(len(self.header) + n * self.row_bytes)
            self.digest = hashlib.file_digest(stream, "sha256")
        return self.digest.hexdigest() == sha256

    def create(self) -> None:
        self.path.unlink(missing_ok=True)  # a memory map of the old file stays valid
        self.path.write_bytes(self.header)
        self.digest = hashlib.sha256(self.header)

    def append(self, values: np.ndarray) -> None:
        """Write rows in half precision."""
        with np.errstate(over="ignore"):
            half = values.astype("<f2")
        wrong = values[~np.isfinite(half)]
        if len(wrong):
            raise ValueError(
                f"{paths.relative(self.path)}: found the value {wrong[0]}; half precision ends at "
                f"{np.finfo(np.float16).max}"
            )
        with open(self.path, "ab") as stream:
            stream.write(half.tobytes())
        self.digest.update(half.tobytes())


def _check_files(files: Sequence[_FeatureFile], note: Path, key: dict, n: int) -> int:
    """Return how many of n rows all files hold; 0 if they are to be computed from the start."""
    keys = {"key", "rows", "sha256"}
    progress = paths.read_note(note, keys, "the features are computed again")
    then, now = progress.get("key"), key["made_with"]
    if not isinstance(then, dict) or then | {"made_with": now} != key:
        return 0
    if not may_use(then["made_with"], now, progress["rows"] == n):
        return 0
    for file in files:
        if not file.holds(progress["rows"], progress["sha256"].get(file.path.name)):
            name = paths.relative(file.path)
            print(f"{name}: missing or damaged, so it is computed again", flush=True)
            return 0
    return progress["rows"]


def _compute(trunk, images, rows, files, note, key, done) -> None:
    """Append the rows after the first `done` to all files, and note the progress."""
    note.parent.mkdir(parents=True, exist_ok=True)
    n, batch_size = key["views"] * len(rows), key["batch_size"]
    needed = sum(file.row_bytes for file in files) * (n - done)
    paths.require_space(note.parent, needed, note.stem)
    if not done:
        note.unlink(missing_ok=True)
        for file in files:
            file.create()
    batches = [(v, i) for v in range(key["views"]) for i in range(0, len(rows), batch_size)]
    noted = time.monotonic()
    for number, (view, start) in enumerate(batches):
        if view * len(rows) + start < done:
            continue
        batch = array_files.read_rows(images, rows[start : start + batch_size])
        outputs = _outputs(trunk, batch, view, number, key["augmented"])
        for file, values in zip(files, outputs, strict=True):
            file.append(values)
        done += len(batch)
        if done == n or time.monotonic() - noted > PROGRESS_SECONDS:
            sha256 = {file.path.name: file.digest.hexdigest() for file in files}
            paths.write_text(note, json.dumps({"key": key, "rows": done, "sha256": sha256}))
            noted = time.monotonic()


def _outputs(trunk, batch, view, number, augmented) -> list[np.ndarray]:
    """Return the outputs for one view of a batch; random layers draw by the batch's number."""
    if augmented:
        for state in model_graph.random_states(trunk):
            seed, _ = model_graph.to_numpy(state)
            state.assign(np.array([seed, number * 1000], model_graph.to_numpy(state).dtype))
    else:
        batch = inference.turned(batch, view)
    outputs = inference.call(trunk, batch, training=augmented and view > 0)
    return outputs if isinstance(outputs, list) else [outputs]


#: The code that decides what is cached, layers apart, as it was imported.
_CODE = model_graph.digest_of(list(stages.code_of("features").values()))
