"""AlexNet, trained from scratch."""

from typing import Annotated

import numpy as np
from pydantic import Field

from lib.config import Augmentation, Positive
from lib.networks.backend import keras
from lib.networks.common_layers import RELU, image_input, probabilities

layers = keras.layers


#: Side in pixels of the input of the first convolution: 11 x 11 in steps of 4 fits 55 times.
ALEXNET_SIZE = 227


@keras.saving.register_keras_serializable(package="lib")
class LocalResponseNormalization(layers.Layer):
    """Divide each value by a function of its neighbours among the channels, at the same position.

    Section 3.3 of Krizhevsky, Sutskever and Hinton (NIPS 2012), whose constants are the defaults:
    b[i] = a[i] / (bias + alpha * sum of a[j]^2)^beta, with j from i - size // 2 to i + size // 2,
    within the channels. Computed in float32, whatever the layer's own number format.

    Parameters
    ----------
    size : int
        Odd: a channel itself and equally many on either side.
    """

    def __init__(
        self, size: int = 5, bias: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, **kwargs
    ):
        super().__init__(**kwargs)
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size is {size}; expected an odd number of channels, 1 or more")
        if bias <= 0:
            raise ValueError(f"bias is {bias}; expected more than 0, to divide by")
        self.size, self.bias, self.alpha, self.beta = size, bias, alpha, beta

    def call(self, inputs):
        ops, channels = keras.ops, np.arange(inputs.shape[-1])
        exact = ops.cast(inputs, "float32")
        # sums of neighbours as one matrix product, and the power as exponential and logarithm:
        # with the gradient 8 times as fast as sums of slices and a power
        near = np.abs(np.subtract.outer(channels, channels)) <= self.size // 2
        sums = ops.matmul(ops.square(exact), near.astype(np.float32))
        factor = ops.exp(-self.beta * ops.log(self.bias + self.alpha * sums))
        return ops.cast(exact * factor, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {name: getattr(self, name) for name in ("size", "bias", "alpha", "beta")}
        return super().get_config() | own


def alexnet(
    image_size: int,
    n_classes: int,
    augmentation: Augmentation | None,
    seed: int,
    *,
    filters: Annotated[list[Positive], Field(min_length=5, max_length=5)],
    dense_units: Annotated[list[Positive], Field(min_length=2, max_length=2)],
    dropout: Annotated[float, Field(ge=0, lt=1)],
) -> keras.Model:
    """Build AlexNet (Krizhevsky, Sutskever and Hinton, NIPS 2012), to be trained from scratch.

    5 convolutions with ReLU, local response normalisation after the first two, overlapping max
    pooling (3 x 3, steps of 2) after the first, second and fifth, then two dense ReLU layers, each
    preceded by dropout. Unlike in the paper, whose network was split between two graphics cards,
    every convolution sees all channels.

    Returns
    -------
    keras.Model
        From uint8 RGB images, shape (n, image_size, image_size, 3), resized to 227 pixels inside
        the model, to probabilities, shape (n, n_classes).
    """
    inputs, x = image_input(image_size, augmentation, seed, white=1.0, size=ALEXNET_SIZE)
    shapes = ((11, 4, "valid"), (5, 1, "same"), (3, 1, "same"), (3, 1, "same"), (3, 1, "same"))
    for i, (n_filters, (side, step, padding)) in enumerate(
        zip(filters, shapes, strict=True), start=1
    ):
        x = layers.Conv2D(n_filters, side, step, padding, name=f"conv{i}", **RELU)(x)
        if i in (1, 2):
            x = LocalResponseNormalization(name=f"normalize{i}")(x)
        if i in (1, 2, 5):
            x = layers.MaxPooling2D(3, strides=2, name=f"pool{i}")(x)
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(dense_units, start=1):
        x = layers.Dropout(dropout, seed=seed + i, name=f"dropout{i}")(x)
        x = layers.Dense(units, name=f"dense{i}", **RELU)(x)
    return keras.Model(inputs, probabilities(x, n_classes), name="alexnet")
