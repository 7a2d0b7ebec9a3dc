"""Grad-CAM: which regions of an image raise the score of a class. Needs TensorFlow."""

import cv2
import numpy as np

from lib.networks import model_graph
from lib.networks.backend import keras


def grad_cam(
    model: keras.Model,
    images: np.ndarray,
    layer: str,
    classes: np.ndarray | None = None,
    batch_size: int = 16,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute Grad-CAM heatmaps (Selvaraju et al., ICCV 2017), and HiResCAM's beside them.

    The feature maps of a convolution are weighted by the mean gradient of the class score before
    the softmax, summed, and cut off at zero. HiResCAM (Draelos and Carin, arXiv:2011.08891) weights
    each cell of a map by its own gradient.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, height, width, 3)
    layer : str
        A convolution of the model, which may be any graph of layers that ends in a dense softmax
        layer. Paths to the output that bypass this layer are held fixed.
    classes : ndarray of int, shape (n,), optional
        The class to explain in each image; by default the most probable one.

    Returns
    -------
    grad_cam, hires_cam : ndarray of float32, shape (n, height, width)
        Each heatmap scaled to [0, 1]; all zero where the layer does not support the class.
    classes : ndarray of int, shape (n,)
        The explained classes.

    Raises
    ------
    ValueError
        The model has no such layer, the layer outputs no feature maps, or `before_softmax` raises.
    """
    import tensorflow as tf

    scores, shape = before_softmax(model, classes), model.get_layer(layer).output.shape
    if len(shape) != 4:
        raise ValueError(f"layer {layer!r} outputs shape {shape}; expected feature maps")
    to_maps, from_maps = model_graph.split_after(scores, layer)
    heatmaps, explained = ([], []), []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        crossing = to_maps(images[rows], training=False)
        maps, *bypass = crossing if isinstance(crossing, list) else [crossing]
        with tf.GradientTape() as tape:
            tape.watch(maps)
            values = from_maps([maps, *bypass] if bypass else maps, training=False)
            targets = np.argmax(values, axis=1) if classes is None else classes[rows]
            score = tf.gather(values, targets, axis=1, batch_dims=1)
        maps, gradient = (np.float32(part) for part in (maps, tape.gradient(score, maps)))
        weights = gradient.mean(axis=(1, 2), keepdims=True), gradient
        for part, factor in zip(heatmaps, weights, strict=True):
            part += [scale(heatmap, images.shape[1:3]) for heatmap in (maps * factor).sum(axis=-1)]
        explained += list(targets)
    return *(np.array(part, np.float32) for part in heatmaps), np.array(explained)


def before_softmax(model: keras.Model, classes: np.ndarray | None = None) -> keras.Model:
    """Return the model up to the class scores before the softmax, which hides small changes.

    The gradient of the softmax vanishes for confident predictions.

    Raises
    ------
    ValueError
        The model does not end in a dense softmax layer, one of the `classes` is not among its
        outputs, or Keras does not run on TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"heatmaps need the backend TensorFlow; found {keras.backend.backend()}")
    output = model.layers[-1]
    if not isinstance(output, keras.layers.Dense) or output.activation.__name__ != "softmax":
        raise ValueError(
            f"{model.name} ends in layer {output.name!r}; expected a dense softmax layer"
        )
    if classes is not None and not np.isin(classes, range(output.units)).all():
        raise ValueError(f"classes = {classes}: expected numbers from 0 to {output.units - 1}")
    scores = keras.layers.Dense(output.units, name="scores", dtype="float32")
    features, _ = model_graph.split_before(model, output.name)
    graph = keras.Model(model.input, scores(features.output), name=model.name)
    scores.set_weights(output.get_weights())
    return graph


def scale(heatmap: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return what supports the class, enlarged to an image's shape, from 0 to 1."""
    enlarged = cv2.resize(np.maximum(heatmap, 0), shape[::-1], interpolation=cv2.INTER_LINEAR)
    return enlarged / max(float(enlarged.max()), 1e-12)
