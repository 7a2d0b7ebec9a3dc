"""Batches of images or cached features, read as they are needed."""

from typing import TYPE_CHECKING

import numpy as np

from lib.networks import array_files
from lib.networks.backend import keras

if TYPE_CHECKING:
    from lib.run import Run


class Batches(keras.utils.PyDataset):
    """Batches of rows of an array, read as they are needed.

    Parameters
    ----------
    inputs : ndarray, shape (m, ...), or list of such
        Images or cached features; may be memory-mapped.
    rows : ndarray of int, shape (n,) or (n, views)
        Which rows to serve; each epoch draws one of the views of an image.
    targets : ndarray of int, shape (n,)
        Class of each row, as its position in the list of classes.
    loss_weights : ndarray of float, shape (classes,)
        Weight of each class in the loss.
    batch_size : int
    seed : int, optional
        Shuffles the images and draws views in each epoch; None keeps the order and the first view.
        What an epoch serves depends only on the seed and the number of the epoch.
    balanced : bool
        Draw each class equally often: images of rare classes several times an epoch, those of
        frequent ones not in every epoch. An epoch stays n images long. Needs a seed.
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
        positions = self.order[batch * self.batch_size :][: self.batch_size]
        targets = self.targets[positions]
        one_hot = np.eye(len(self.loss_weights), dtype=np.float32)[targets]
        inputs = read_rows(self.inputs, self.rows[positions, self.view[positions]])
        inputs = tuple(inputs) if isinstance(inputs, list) else inputs  # TensorFlow takes no list
        return inputs, one_hot, self.loss_weights[targets]

    def start_epoch(self, epoch: int) -> None:
        """Serve the images of epoch number `epoch`, counted from 0; `fit` calls it for each.

        Keras's own `on_epoch_end` does not fit: Keras calls it once more before the first epoch.
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
        """Return a description that differs for batches of other images or in another order."""
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
    """Draw as many positions as there are targets, each class equally often (to within one).

    All images of a class are drawn, in random order, before one of them is drawn again.

    Examples
    --------
    >>> order = balanced_order(np.array([0, 1, 1, 1]), np.random.default_rng(1))
    >>> sorted(np.array([0, 1, 1, 1])[order].tolist())
    [0, 0, 1, 1]
    """
    classes = np.unique(targets)
    share, rest = divmod(len(targets), len(classes))
    counts = np.full(len(classes), share)
    counts[random.permutation(len(classes))[:rest]] += 1
    drawn = []
    for label, count in zip(classes, counts, strict=True):
        positions = np.flatnonzero(targets == label)
        rounds = [random.permutation(positions) for _ in range(-(-count // len(positions)))]
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
    class_balance : {"logit_adjusted", "weights", "sampling", "none"}, optional
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
    class_balance : {"logit_adjusted", "weights", "sampling", "none"}
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

    Equal priors after training with logit adjustment, class weights or balanced sampling, else the
    class prior of the training images.

    Examples
    --------
    >>> output_prior(np.array([0.2, 0.8]), "weights").tolist()
    [0.5, 0.5]
    """
    if class_balance == "none":
        return np.asarray(class_prior)
    return np.full(len(class_prior), 1 / len(class_prior))


class PaddedBatches(keras.utils.PyDataset):
    """Batches filled up to a multiple of the number of devices, with rows that do not count.

    Such a row has no class, and weight 0 in the loss of its batch, which stays the mean over the
    other rows. In the mean of an epoch, the last batch counts for as many rows as it then has.
    """

    def __init__(self, batches: Batches, n_devices: int):
        super().__init__()
        self.batches, self.n_devices = batches, n_devices

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, batch):
        inputs, one_hot, loss_weights = self.batches[batch]
        n = len(one_hot)
        length = -(-n // self.n_devices) * self.n_devices
        rows = np.minimum(np.arange(length), n - 1)
        counts = (np.arange(length) < n).astype(np.float32)
        inputs = tuple(x[rows] for x in inputs) if isinstance(inputs, tuple) else inputs[rows]
        weights = loss_weights[rows] * counts * np.float32(length / n)
        return inputs, one_hot[rows] * counts[:, None], weights


def pad(batches: Batches, n_devices: int) -> keras.utils.PyDataset:
    """Return batches whose length is a multiple of the number of devices."""
    return PaddedBatches(batches, n_devices) if n_devices > 1 else batches


def read_rows(inputs: np.ndarray | list[np.ndarray], rows: np.ndarray):
    """Read rows of images or features, as the network takes them: float16 becomes float32."""
    if isinstance(inputs, list):
        return [read_rows(part, rows) for part in inputs]
    batch = array_files.read_rows(inputs, rows)
    return batch.astype(np.float32) if batch.dtype == np.float16 else batch
