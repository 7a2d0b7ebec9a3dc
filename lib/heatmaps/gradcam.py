"""Where a model looks: Grad-CAM, and how much of it falls on the lesion. Needs TensorFlow."""

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
) -> tuple[np.ndarray, np.ndarray]:
    """Compute Grad-CAM heatmaps (Selvaraju et al., ICCV 2017).

    The maps of a convolution are weighted by the mean gradient of the class's score before the
    softmax and added up; negative sums are cut off.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, height, width, 3)
    layer : str
        A convolution of the model, which may be any graph of layers that ends in a dense softmax
        layer. What reaches the answer by other ways than through this layer is held fixed.
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
        The model has no such layer, or it puts out no maps, or the model does not end in a dense
        softmax layer; or Keras's backend is not TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Grad-CAM takes gradients with TensorFlow; the backend is {keras.backend.backend()}"
        )
    _, kept = model_graph.split_before(model, layer)
    last, shape = kept.layers[-1], kept.get_layer(layer).output.shape
    if len(shape) != 4:
        raise ValueError(f"layer {layer!r} puts out shape {shape}; expected maps")
    if not isinstance(last, keras.layers.Dense) or last.activation.__name__ != "softmax":
        raise ValueError(
            f"{model.name} ends in layer {last.name!r}; expected a dense softmax layer"
        )
    trunk, top = model_graph.split_after(model, layer)
    before_last, _ = model_graph.split_before(top, last.name)
    found, explained = [], []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        asked = None if classes is None else classes[start : start + batch_size]
        maps, chosen = _weighted_maps(trunk(batch, training=False), before_last, last, asked)
        found += [_scale(each, batch.shape[1:3]) for each in maps]
        explained.append(chosen)
    return np.array(found, np.float32), np.concatenate(explained)


def _weighted_maps(crossing, before_last, last, classes):
    import tensorflow as tf

    several = isinstance(crossing, list)
    maps, others = (crossing[0], crossing[1:]) if several else (crossing, [])
    with tf.GradientTape() as tape:
        tape.watch(maps)
        inputs = [maps, *others] if several else maps
        features = tf.cast(before_last(inputs, training=False), "float32")
        # before the softmax, whose gradient is rounded to zero where an answer is sure
        logits = tf.matmul(features, last.kernel) + last.bias
        classes = np.argmax(logits, axis=1) if classes is None else classes
        score = tf.gather(logits, classes, axis=1, batch_dims=1)
    gradient = tf.cast(tape.gradient(score, maps), "float32")
    weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    weighted = tf.cast(maps, "float32") * weights
    return tf.nn.relu(tf.reduce_sum(weighted, axis=-1)).numpy(), classes


def _scale(heatmap: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    enlarged = cv2.resize(heatmap, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return enlarged / max(float(enlarged.max()), 1e-12)
