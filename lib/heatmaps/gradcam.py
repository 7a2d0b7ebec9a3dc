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
    pooled: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute Grad-CAM heatmaps (Selvaraju et al., ICCV 2017).

    The feature maps of a convolution are weighted by the mean gradient of the class score before
    the softmax, summed, and cut off at zero.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, height, width, 3)
    layer : str
        A convolution of the model, which may be any graph of layers that ends in a dense softmax
        layer. Paths to the output that bypass this layer are held fixed.
    classes : ndarray of int, shape (n,), optional
        The class to explain in each image; by default the most probable one.
    pooled : bool
        False: HiResCAM (Draelos and Carin, arXiv:2011.08891): the gradient of each cell counts,
        not its mean over the map.

    Returns
    -------
    heatmaps : ndarray of float32, shape (n, height, width)
        Each scaled to [0, 1]; all zero where the layer does not support the class.
    classes : ndarray of int, shape (n,)
        The explained classes.

    Raises
    ------
    ValueError
        The model has no such layer, the layer outputs no feature maps, the model does not end in
        a dense softmax layer, or Keras does not run on TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"Grad-CAM needs the backend TensorFlow; found {keras.backend.backend()}")
    output, shape = model.layers[-1], model.get_layer(layer).output.shape
    if len(shape) != 4:
        raise ValueError(f"layer {layer!r} outputs shape {shape}; expected feature maps")
    if not isinstance(output, keras.layers.Dense) or output.activation.__name__ != "softmax":
        raise ValueError(
            f"{model.name} ends in layer {output.name!r}; expected a dense softmax layer"
        )
    to_maps, from_maps = model_graph.split_after(model, layer)
    to_features, _ = model_graph.split_before(from_maps, output.name)
    heatmaps, explained = [], []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        selected = None if classes is None else classes[start : start + batch_size]
        crossing = to_maps(batch, training=False)
        maps, selected = _weighted_maps(crossing, to_features, output, selected, pooled)
        heatmaps += [_scale(heatmap, batch.shape[1:3]) for heatmap in maps]
        explained.append(selected)
    return np.array(heatmaps, np.float32), np.concatenate(explained)


def _weighted_maps(crossing, to_features, output, classes, pooled):
    import tensorflow as tf

    maps, bypass = (crossing[0], crossing[1:]) if isinstance(crossing, list) else (crossing, [])
    with tf.GradientTape() as tape:
        tape.watch(maps)
        features = to_features([maps, *bypass] if bypass else maps, training=False)
        # class scores before the softmax, whose gradient vanishes for confident predictions
        logits = tf.matmul(tf.cast(features, "float32"), output.kernel) + output.bias
        classes = np.argmax(logits, axis=1) if classes is None else classes
        score = tf.gather(logits, classes, axis=1, batch_dims=1)
    gradient = tf.cast(tape.gradient(score, maps), "float32")
    weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True) if pooled else gradient
    weighted = tf.cast(maps, "float32") * weights
    return tf.nn.relu(tf.reduce_sum(weighted, axis=-1)).numpy(), classes


def _scale(heatmap: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    enlarged = cv2.resize(heatmap, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return enlarged / max(float(enlarged.max()), 1e-12)
