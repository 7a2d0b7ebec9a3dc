"""Batches of images or cached features, read as they are needed."""

import mmap
import weakref
from typing import TYPE_CHECKING

import numpy as np

from lib.networks import array_files
from lib.networks.backend import keras

if TYPE_CHECKING:
    from lib.run import Run

#: Bytes taken from a memory-mapped file until its pages are let go. The system may have mapped
#: many times as much by then, as it maps what it holds in one piece together.
MAPPED_BYTES = 2**26

#: Rows of a memory-mapped file of at least so many bytes are announced before they are read.
ANNOUNCED_BYTES = 2**16


_taken: weakref.WeakKeyDictionary[mmap.mmap, int] = weakref.WeakKeyDictionary()


class Batches(keras.utils.PyDataset):
    """Batches of rows of an array, read as they are needed.

    Parameters
    ----------
    inputs : ndarray, shape (m, ...), or list of such
        Images or cached features; may be memory-mapped.
    rows : ndarray of int, shape (n,) or (n, views)
        Which rows to serve; of several views of an image, each epoch draws one.
    targets : ndarray of int, shape (n,)
        Class of each row, as its place in the list of classes.
    loss_weights : ndarray of float, shape (classes,)
        Weight of each class in the loss.
    seed : int or None
        Shuffles (and draws views) anew each epoch; None keeps the order and the first view. What
        an epoch serves depends on the seed and the epoch's number alone.
    balanced : bool
        Draw each class equally often: rare ones several times an epoch, of frequent ones a part.
        An epoch stays n images long. Needs a seed.
    """

    def __init__(self, inputs, rows, targets, loss_weights, batch_size, seed=None, balanced=False):
        super().__init__()
        if not len(targets):
            raise ValueError("no rows to serve; expected at least one")
        self.inputs, self.targets = inputs, np.asarray(targets)
        self.rows = np.asarray(rows).reshape(len(self.targets), -1)
        self.loss_weights = np.asarray(loss_weights, np.float32)
        self.batch_size, self.seed, self.balanced = batch_size, seed, balanced
        self.start_epoch(0)

    def __len__(self):
        return -(-len(self.targets) // self.batch_size)

    def __getitem__(self, batch):
        chosen = self.order[batch * self.batch_size :][: self.batch_size]
        target = self.targets[chosen]
        one_hot = np.eye(len(self.loss_weights), dtype=np.float32)[target]
        rows = self.rows[chosen, self.view[chosen]]
        served = take_rows(self.inputs, rows)
        served = tuple(served) if isinstance(served, list) else served  # TensorFlow takes no list
        return served, one_hot, self.loss_weights[target]

    def start_epoch(self, epoch: int) -> None:
        """Serve what epoch number `epoch` serves, counted from 0; `fit` calls it for each.

        Keras's own `on_epoch_end` will not do: Keras calls it once more before the first epoch.
        """
        self.epoch = epoch
        n, views = self.rows.shape
        if self.seed is None:
            self.order, self.view = np.arange(n), np.zeros(n, int)
            return
        random = np.random.default_rng([self.seed, epoch])
        self.order = (
            balanced_order(self.targets, random) if self.balanced else random.permutation(n)
        )
        self.view = random.integers(views, size=n)

    def key(self) -> dict:
        """Return what tells these batches from others."""
        parts = self.inputs if isinstance(self.inputs, list) else [self.inputs]
        return {
            "inputs": [array_files.fingerprint(part) for part in parts],
            "rows": array_files.fingerprint(self.rows),
            "targets": array_files.fingerprint(self.targets),
            "loss_weights": self.loss_weights.tolist(),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "balanced": self.balanced,
        }


def balanced_order(targets: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw as many places as there are targets, each class equally often (to within one).

    A class is gone through in random order before one of its images comes again.
    """
    present = np.unique(targets)
    share, rest = divmod(len(targets), len(present))
    counts = np.full(len(present), share)
    counts[random.permutation(len(present))[:rest]] += 1
    drawn = []
    for label, count in zip(present, counts, strict=True):
        places = np.flatnonzero(targets == label)
        rounds = [random.permutation(places) for _ in range(-(-count // len(places)))]
        drawn.append(np.concatenate(rounds)[:count])
    return random.permutation(np.concatenate(drawn))


def split_batches(
    run: "Run", split: str, inputs, settings, class_balance: str | None = None, seed=None
) -> Batches:
    """Return the batches of a run's training or validation images.

    Parameters
    ----------
    run : lib.run.Run
    split : {"train", "validation"}
    inputs : ndarray or list of ndarray
        `run.images`, or the cached features of this split's images, in any number of views.
    settings
        A section of the configuration with `batch_size` and `class_balance`.
    class_balance : {"weights", "sampling", "none"}, optional
        By default that of the settings.
    seed : int, optional
        Shuffles the images, draws views and, if the settings say so, balances the classes; for
        training.
    """
    class_balance = class_balance or settings.class_balance
    rows = run.rows(split)
    features = inputs[0] if isinstance(inputs, list) else inputs
    return Batches(
        inputs,
        rows if features is run.images else view_rows(features, len(rows)),
        run.targets[rows],
        class_weights(run.targets[run.rows("train")], len(run.classes), class_balance),
        settings.batch_size,
        seed,
        balanced=class_balance == "sampling" and seed is not None,
    )


def view_rows(features: np.ndarray, n: int) -> np.ndarray:
    """Return the rows of the views of each of n images in `feature_cache.cache_features`' arrays.

    Returns
    -------
    ndarray of int, shape (n, views)

    Examples
    --------
    >>> view_rows(np.zeros((6, 512)), 3).tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    return np.arange(len(features)).reshape(-1, n).T


def class_weights(targets: np.ndarray, n_classes: int, class_balance: str) -> np.ndarray:
    """Return the weight of each class in the loss.

    Parameters
    ----------
    class_balance : {"weights", "sampling", "none"}
        `weights`: inversely proportional to the class's number of images, 1 on average over the
        images; otherwise 1 for every class.

    Examples
    --------
    >>> class_weights(np.array([0, 1, 1, 1]), 2, "weights").round(2).tolist()
    [2.0, 0.67]
    """
    if class_balance != "weights":
        return np.ones(n_classes)
    counts = np.bincount(targets, minlength=n_classes)
    return len(targets) / (n_classes * np.maximum(counts, 1))


def output_prior(class_prior: np.ndarray, class_balance: str) -> np.ndarray:
    """Return the class prior under which a network's outputs are posterior probabilities.

    Equal priors after training with class weights or balanced sampling, else the class prior of
    the training images.

    Examples
    --------
    >>> output_prior(np.array([0.2, 0.8]), "weights").tolist()
    [0.5, 0.5]
    """
    if class_balance == "none":
        return np.asarray(class_prior)
    return np.full(len(class_prior), 1 / len(class_prior))


class FilledUp(keras.utils.PyDataset):
    """Batches filled up to a multiple of the devices, with rows that count for nothing.

    Such a row has no class, and weight 0 in the loss of its batch, which stays the mean over the
    others. In an epoch's mean it makes the batch, the last one, count for that much more.
    """

    def __init__(self, batches: Batches, devices: int):
        super().__init__()
        self.batches, self.devices = batches, devices

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, batch):
        inputs, labels, loss_weights = self.batches[batch]
        n = len(labels)
        length = -(-n // self.devices) * self.devices
        real, row = np.arange(length) < n, np.minimum(np.arange(length), n - 1)
        several = isinstance(inputs, tuple)
        inputs = tuple(part[row] for part in inputs) if several else inputs[row]
        weights_ = np.where(real, loss_weights[row] * np.float32(length / n), np.float32(0))
        return inputs, np.where(real[:, None], labels[row], np.float32(0)), weights_


def filled_up(batches: Batches, devices: int) -> keras.utils.PyDataset:
    """Return batches whose length is a multiple of the number of devices."""
    return FilledUp(batches, devices) if devices > 1 else batches


def take_rows(inputs, rows: np.ndarray):
    """Read rows; cached features are widened: half precision is for the disk; images stay uint8."""
    if isinstance(inputs, list):
        return [take_rows(part, rows) for part in inputs]
    _announce(inputs, rows)
    batch = inputs[rows]
    let_go(inputs, batch.nbytes)
    return batch.astype(np.float32) if batch.dtype == np.float16 else np.asarray(batch)


def _announce(array: np.ndarray, rows: np.ndarray) -> None:
    """Let the system read rows of a memory-mapped array side by side, before they are touched.

    Otherwise it reads them one after another, a few pages at a time. Small rows are left to it.
    """
    mapped, size = _mapping(array), array.strides[0]
    if mapped is None or size < ANNOUNCED_BYTES or not hasattr(mmap, "MADV_WILLNEED"):
        return
    start = array.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    for row in rows.tolist():
        place = start + row * size
        page = place - place % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, place + size - page)


def let_go(array: np.ndarray, taken: int = MAPPED_BYTES) -> None:
    """Count bytes taken from a memory-mapped array, and let its pages go once they are many.

    What was read of a mapped file counts as memory of the process until the system wants it back:
    in the end all of it. Pages that are let go stay in the system's cache, or on the disk, and are
    mapped again when they are read. Of an array that is not mapped, nothing happens; nor where the
    system has no such call.

    Parameters
    ----------
    taken : int
        Bytes that were read or written; by default so many that the pages are let go now.
    """
    mapped = _mapping(array)
    if mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    _taken[mapped] = _taken.get(mapped, 0) + taken
    if _taken[mapped] >= MAPPED_BYTES:
        mapped.madvise(mmap.MADV_DONTNEED)
        _taken[mapped] = 0


def _mapping(array) -> mmap.mmap | None:
    """Return the file mapping that an array is a view of, unless changes to it are its own."""
    private = False
    while array is not None and not isinstance(array, mmap.mmap):
        private |= getattr(array, "mode", None) == "c"  # never written, so they would be lost
        array = getattr(array, "base", None)
    return None if private else array
