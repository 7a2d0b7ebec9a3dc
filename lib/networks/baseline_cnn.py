"""The paper's CNN: eight convolutions with max pooling and two dense layers."""

from lib.config import Augmentation, BaselineCNN
from lib.networks import common_layers
from lib.networks.backend import keras

layers = keras.layers


def baseline_cnn(
    image_size: int,
    n_classes: int,
    settings: BaselineCNN,
    augmentation: Augmentation,
    seed: int,
    output: str = "softmax",
) -> keras.Model:
    """Build the paper's CNN: 8 convolutions, each followed by max pooling, and 2 dense layers.

    3 x 3 convolutions with ReLU and padding, 2 x 2 poolings, two dense ReLU layers and a dense
    output. The paper does not give the numbers of filters and units: see the configuration.

    Parameters
    ----------
    image_size : int
        Side in pixels, at least 2**8: each pooling halves it.
    output : {"softmax", "relu"}
        `relu` is what the paper gives its last layer. It cannot be a probability distribution:
        its values do not add up to 1, and may all be 0.

    Returns
    -------
    keras.Model
        From uint8 RGB images, shape (n, image_size, image_size, 3), to probabilities, shape
        (n, n_classes). Layers `conv1` ... `conv8`, `pool1` ... `pool8`, `dense1`, `dense2`,
        `probabilities`.
    """
    if output not in ("softmax", "relu"):
        raise ValueError(f"output is {output!r}; expected 'softmax' or 'relu'")
    if image_size < 2 ** len(settings.filters):
        raise ValueError(
            f"image_size is {image_size}; {len(settings.filters)} poolings by two need at least "
            f"{2 ** len(settings.filters)} pixels"
        )
    inputs, x = common_layers.image_input(image_size, augmentation, seed, white=1.0)
    for i, filters in enumerate(settings.filters, start=1):
        x = layers.Conv2D(filters, 3, padding="same", name=f"conv{i}", **common_layers.RELU)(x)
        x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(settings.dense_units, start=1):
        x = layers.Dense(units, name=f"dense{i}", **common_layers.RELU)(x)
    outputs = layers.Dense(
        n_classes, activation=output, name="probabilities", **common_layers.EXACT
    )(x)
    return keras.Model(inputs, outputs, name="baseline_cnn")
