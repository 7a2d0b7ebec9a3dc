"""Run a network on images: outputs, probabilities, test-time views."""

import numpy as np

from lib.evaluation import priors
from lib.networks import batching, model_graph
from lib.networks.backend import keras


def forward(
    model: keras.Model,
    inputs: np.ndarray | list[np.ndarray],
    rows: np.ndarray | None = None,
    batch_size: int = 32,
    view: int = 0,
) -> np.ndarray:
    """Return a model's outputs outside training, ndarray of float32, shape (n, ...).

    Parameters
    ----------
    rows : ndarray of int, shape (n,), optional
        Which inputs, read batch by batch; by default all.
    view : int
        Which flip or quarter turn of the images, as `turned` counts them.
    """
    first = inputs[0] if isinstance(inputs, list) else inputs
    rows = np.arange(len(first)) if rows is None else np.asarray(rows)
    outputs = []
    for start in range(0, len(rows), batch_size):
        batch = batching.read_rows(inputs, rows[start : start + batch_size])
        outputs.append(call(model, turned(batch, view) if view else batch))
    return np.concatenate(outputs)


def predict(
    model: keras.Model,
    inputs: np.ndarray | list[np.ndarray],
    rows: np.ndarray | None = None,
    batch_size: int = 32,
    views: int = 1,
) -> np.ndarray:
    """Return class probabilities, ndarray of float, shape (n, classes), rows adding up to 1.

    Parameters
    ----------
    views : {1, 2, 4, 8}
        In how many flips and quarter turns each image is predicted, to average
        (`priors.average_views`).
    """
    seen = [forward(model, inputs, rows, batch_size, view) for view in range(views)]
    return priors.average_views(np.stack(seen))


def turned(images: np.ndarray, view: int) -> np.ndarray:
    """Return images in one of their eight flips and quarter turns.

    Parameters
    ----------
    images : ndarray, shape (n, size, size, channels)
    view : int
        0: as they are; 1: left and right exchanged; 2: turned by half; 3: top and bottom exchanged;
        4 to 7: the same, turned by a quarter more.
    """
    flip, half, quarter = view in (1, 3, 5, 7), view in (2, 3, 6, 7), view >= 4
    images = images[:, :, ::-1] if flip else images
    return np.ascontiguousarray(np.rot90(images, 2 * half + quarter, axes=(1, 2)))


def call(model: keras.Model, batch, training: bool = False):
    """Return a model's output for one batch as an array, or as a list of arrays if it has several.

    The model is called directly: `predict` would trace a function for every model and batch size.
    """
    output = model(batch, training=training)
    if isinstance(output, list | tuple):
        return [model_graph.to_numpy(part).astype(np.float32, copy=False) for part in output]
    return model_graph.to_numpy(output).astype(np.float32, copy=False)
