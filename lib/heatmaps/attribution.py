"""Integrated gradients and occlusion: heatmaps that need no layer. They need TensorFlow."""

import cv2
import numpy as np
from scipy import ndimage
from scipy.special import logsumexp

from lib.heatmaps.gradcam import before_softmax, scale
from lib.networks import inference, model_graph
from lib.networks.backend import keras

BATCH = 16  # images in memory at a time
#: Points on the path of integrated gradients, and the standard deviation of the blur of the result,
#: relative to the side of the image.
POINTS, BLUR = 16, 0.02
#: Occlusion: the side of a square relative to the image's, positions along each axis, the step of
#: the first pass in positions, and how many of its squares have their neighbours measured as well.
SQUARE, POSITIONS, STEP, REFINED = 1 / 7, 25, 3, 3


def integrated_gradients(
    model: keras.Model, images: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute integrated gradients (Sundararajan, Taly and Yan, ICML 2017).

    The path leads from the mean colour of the image to the image; the class score is that before
    the softmax. The values of the channels are added, blurred (`BLUR`), and cut off at zero.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, height, width, 3)
    classes : ndarray of int, shape (n,)
        The class to explain in each image.

    Returns
    -------
    heatmaps : ndarray of float32, shape (n, height, width)
        Each scaled to [0, 1].
    gaps : ndarray of float, shape (n,)
        By how much the sum of all values misses the change of the score along the path, relative
        to that change: 0 if the points suffice.
    """
    scores = before_softmax(model, classes)
    to_pixels, from_pixels = model_graph.split_after(scores, model.layers[1].name)
    heatmaps, gaps = [], []
    for first in range(0, len(images), BATCH):
        rows = slice(first, first + BATCH)
        pixels = inference.call(to_pixels, images[rows])
        plain = pixels.mean(axis=(1, 2), keepdims=True)
        values, change = path_integral(from_pixels, plain, pixels, classes[rows])
        blurred = [cv2.GaussianBlur(v.sum(axis=-1), (0, 0), BLUR * len(v)) for v in values]
        heatmaps += [scale(heatmap, images.shape[1:3]) for heatmap in blurred]
        gaps += (abs(values.sum(axis=(1, 2, 3)) - change) / abs(change)).tolist()
    return np.array(heatmaps, np.float32), np.array(gaps)


def path_integral(
    scores: keras.Model, start: np.ndarray, end: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the change of a class score between two inputs among their values.

    Parameters
    ----------
    scores : keras.Model
        From inputs to class scores.
    start, end : ndarray of float32, shape (n, ...)

    Returns
    -------
    values : ndarray of float32, shape (n, ...)
        (end - start) times the mean gradient of the score on the straight line between them, by
        Gauss-Legendre quadrature.
    changes : ndarray of float32, shape (n,)
        The score at the end minus that at the start.
    """
    import tensorflow as tf

    @tf.function  # a graph leaves out the gradients of the weights
    def at(points):
        with tf.GradientTape() as tape:
            tape.watch(points)
            score = tf.gather(scores(points, training=False), classes, axis=1, batch_dims=1)
        return score, tape.gradient(score, points)

    places, weights = np.polynomial.legendre.leggauss(POINTS)
    mean, change = 0.0, 0.0
    for place, weight in [(-1, 0), *zip(places, weights, strict=True), (1, 0)]:
        points = tf.constant(start + (place + 1) / 2 * (end - start), "float32")
        score, gradient = (part.numpy() for part in at(points))
        mean += weight / 2 * gradient
        change = change if weight else score - change
    return (end - start) * mean, change


def occlusion(
    model: keras.Model, images: np.ndarray, classes: np.ndarray, dense: bool = False
) -> np.ndarray:
    """Cover each part of an image in turn, and return by how much the log-odds of the class fall.

    Zeiler and Fergus (ECCV 2014). The squares have the mean colour of the image.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, size, size, 3)
    classes : ndarray of int, shape (n,)
        The class to explain in each image.
    dense : bool
        Cover all `POSITIONS` x `POSITIONS` squares. Otherwise every `STEP`-th along each axis and
        the neighbours of the `REFINED` that matter most; the others are interpolated.

    Returns
    -------
    ndarray of float32, shape (n, size, size)
        In nats, at the centre of the square; negative where covering the image raises the odds.
    """
    import tensorflow as tf

    scores = tf.function(before_softmax(model, classes), reduce_retracing=True)
    size, step = images.shape[1], 1 if dense else STEP
    side = round(SQUARE * size)
    corners = np.linspace(0, size - side, POSITIONS).round().astype(int)
    places = (np.arange(size) - (side - 1) / 2) * (POSITIONS - 1) / (size - side)
    first = np.zeros((POSITIONS, POSITIONS), bool)
    first[::step, ::step] = True

    def drops(image, target, chosen):
        covered = np.repeat(image[None], 1 + chosen.sum(), axis=0)
        for copy, (top, left) in zip(covered[1:], corners[np.argwhere(chosen)], strict=True):
            copy[top : top + side, left : left + side] = image.mean(axis=(0, 1)).round()
        logits = inference.forward(scores, covered, batch_size=BATCH).astype(float)
        odds = logits[:, target] - logsumexp(np.delete(logits, target, axis=1), axis=1)
        return odds[0] - odds[1:]

    heatmaps = []
    for image, target in zip(images, classes, strict=True):
        grid, near = np.zeros(first.shape), np.zeros_like(first)
        grid[first] = drops(image, target, first)
        if not dense:
            near.flat[np.argsort(-abs(grid), axis=None)[:REFINED]] = True
            near = ndimage.binary_dilation(near, np.ones((STEP, STEP))) & ~first
            coarse = grid[::STEP, ::STEP]
            grid = ndimage.zoom(coarse, POSITIONS / len(coarse), order=1)
            grid[near] = drops(image, target, near)
        pixels = np.meshgrid(places, places, indexing="ij")
        heatmaps.append(ndimage.map_coordinates(grid, pixels, order=1, mode="nearest"))
    return np.array(heatmaps, np.float32)
