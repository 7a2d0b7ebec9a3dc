"""Where a model looks: Grad-CAM, and how much of it falls on the lesion. Needs TensorFlow."""

import cv2
import numpy as np

from lib import models
from lib.backend import keras


def grad_cam(
    model: keras.Model,
    images: np.ndarray,
    layer: str,
    classes: np.ndarray | None = None,
    batch_size: int = 16,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute Grad-CAM heatmaps (Selvaraju et al., ICCV 2017).

    The maps of a convolution are weighted by the mean gradient of the class's score before the
    softmax and added up; negative sums are cut off.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, height, width, 3)
    layer : str
        A convolution of the model, which must be a plain chain of layers that ends in a dense
        softmax layer.
    classes : ndarray of int, shape (n,), optional
        The class to explain in each image; by default the most probable one.

    Returns
    -------
    heatmaps : ndarray of float32, shape (n, height, width)
        Each scaled to [0, 1]; all zero where nothing speaks for the class.
    classes : ndarray of int, shape (n,)
        The class that was explained.

    Raises
    ------
    ValueError
        The model has no such layer, or it puts out no maps.
    """
    trunk, top = models.split_model(model, layer)
    if len(trunk.output_shape) != 4:
        raise ValueError(f"layer {layer!r} puts out shape {trunk.output_shape}; expected maps")
    before_last, _ = models.split_model(top, top.operations[-2].name)
    found, explained = [], []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        asked = None if classes is None else classes[start : start + batch_size]
        maps, chosen = _weighted_maps(trunk(batch, training=False), before_last, top, asked)
        found += [_scale(each, batch.shape[1:3]) for each in maps]
        explained.append(chosen)
    return np.array(found, np.float32), np.concatenate(explained)


def _weighted_maps(maps, before_last, top, classes):
    import tensorflow as tf

    last = top.layers[-1]
    with tf.GradientTape() as tape:
        tape.watch(maps)
        # before the softmax, whose gradient is rounded to zero where an answer is sure
        logits = tf.matmul(before_last(maps, training=False), last.kernel) + last.bias
        classes = np.argmax(logits, axis=1) if classes is None else classes
        score = tf.gather(logits, classes, axis=1, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(score, maps), axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(maps * weights, axis=-1)).numpy(), classes


def mass_inside(heatmaps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the share of each heatmap's mass that lies inside the lesion mask.

    Parameters
    ----------
    heatmaps : ndarray of float, shape (n, height, width), or (1, height, width) for all masks
    masks : ndarray of bool, shape (n, height, width)

    Returns
    -------
    ndarray of float, shape (n,)
        NaN for a heatmap that is zero everywhere. A heatmap that ignores the image scores the
        mask's share of the area.
    """
    inside = (heatmaps * masks).sum(axis=(1, 2), dtype=np.float64)
    total = np.broadcast_to(heatmaps.sum(axis=(1, 2), dtype=np.float64), inside.shape)
    return np.divide(inside, total, out=np.full(len(inside), np.nan), where=total > 0)


def _scale(heatmap: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    enlarged = cv2.resize(heatmap, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return enlarged / max(float(enlarged.max()), 1e-12)
