"""The paper's CNN: eight convolutions with max pooling and two dense layers."""

from typing import Annotated, Literal

from pydantic import Field

from lib.config import Augmentation, Positive
from lib.networks.backend import keras
from lib.networks.common_layers import RELU, image_input, probabilities

layers = keras.layers


def baseline_cnn(
    image_size: int,
    n_classes: int,
    augmentation: Augmentation | None,
    seed: int,
    *,
    filters: Annotated[list[Positive], Field(min_length=8, max_length=8)],
    dense_units: Annotated[list[Positive], Field(min_length=2, max_length=2)],
    output: Literal["softmax", "relu"] = "softmax",
) -> keras.Model:
    """Build the paper's CNN: 8 convolutions, each followed by max pooling, and 2 dense layers.

    The paper does not give the numbers of filters and units; the configuration does.

    Parameters
    ----------
    image_size : int
        Side in pixels, at least 2**8, since each pooling halves it.
    filters, dense_units : list of int
        Of the convolutions and of the dense layers.
    output : {"softmax", "relu"}
        The paper names a ReLU, whose outputs are no probabilities: they do not add up to 1, and
        may all be 0.

    Returns
    -------
    keras.Model
        From uint8 RGB images, shape (n, image_size, image_size, 3), to probabilities, shape
        (n, n_classes).
    """
    smallest = 2 ** len(filters)
    if image_size < smallest:
        raise ValueError(f"image_size is {image_size}; expected at least {smallest} pixels")
    inputs, x = image_input(image_size, augmentation, seed, white=1.0)
    for i, n_filters in enumerate(filters, start=1):
        x = layers.Conv2D(n_filters, 3, padding="same", name=f"conv{i}", **RELU)(x)
        x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(dense_units, start=1):
        x = layers.Dense(units, name=f"dense{i}", **RELU)(x)
    return keras.Model(inputs, probabilities(x, n_classes, output), name="baseline_cnn")
