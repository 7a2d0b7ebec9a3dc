"""Layers that all networks share: image input, resizing, augmentation, output."""

import numpy as np

from lib.config import Augmentation, ColorJitter
from lib.networks.backend import keras

layers = keras.layers

#: He et al. (ICCV 2015): keeps the scale of the signal through a chain of ReLU layers. With Keras's
#: default (Glorot) it shrinks in the eight convolutions, and the loss does not fall.
RELU = {"activation": "relu", "kernel_initializer": "he_uniform"}

#: For layers that must not round: pixels before the first convolution, averages over maps,
#: probabilities. The layers between follow Keras's dtype policy, such as mixed_bfloat16.
EXACT = {"dtype": "float32"}


def image_input(
    image_size: int, augmentation: Augmentation | None, seed: int, white: float, size: int = 0
):
    """Return a model's input, and its pixels from 0 to `white`, resized and augmented.

    Parameters
    ----------
    size : int
        Side in pixels to resize to; 0 leaves the images as they are.
    """
    inputs = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    name = "rescale" if white == 1 else "to_float"
    x = layers.Rescaling(white / 255, name=name, **EXACT)(inputs)
    if size not in (0, image_size):
        x = layers.Resizing(size, size, antialias=True, name="resize", **EXACT)(x)
    for layer in augmentation_layers(augmentation, seed, white) if augmentation else ():
        x = layer(x)
    return inputs, x


def augmentation_layers(settings: Augmentation, seed: int, white: float = 1.0) -> list[keras.Layer]:
    """Return layers for random flips, rotation and zoom (paper, Methodology), and for more.

    They act in training only: in `fit`, not in `predict`. A model that is called directly needs
    `training=False`, since Keras's own layers augment by default. Every image of a batch is
    augmented differently.

    Parameters
    ----------
    white : float
        The largest possible value of a pixel at the input of these layers, 1 or 255.
    """
    amounts = settings.model_dump(include=set("zoom flip shear shift aspect".split()))
    amounts |= {"turns": settings.rotation_degrees / 360}
    affine = RandomAffine(**amounts, seed=seed, name="random_affine", **EXACT)
    jitter = _color_layers(settings.color_jitter or ColorJitter(), seed + 3, white)
    return [*([affine] if set(amounts.values()) != {0, "none"} else []), *jitter]


@keras.saving.register_keras_serializable(package="lib")
class RandomAffine(layers.Layer):
    """Rotate, zoom, flip, shear, shift and stretch each image at random, in training only.

    One interpolation does it all: a chain of Keras's RandomFlip, RandomRotation and RandomZoom
    blurs twice and takes twice as long. Pixels outside the image are filled by reflection.

    Parameters
    ----------
    turns : float
        The largest rotation either way, as a fraction of a full turn.
    zoom : float
        Lengths are divided by a number from 1 - zoom to 1 + zoom, as in Keras's RandomZoom.
    flip : {"none", "horizontal", "vertical", "horizontal_and_vertical"}
        Each flip is done with probability 1/2.
    shear : float
        The largest tangent of the angle between columns and the vertical.
    shift : float
        The largest shift along each axis, as a proportion of the side.
    aspect : float
        The ratio of width to height is multiplied by a number from 1 / (1 + aspect) to 1 + aspect.
    """

    def __init__(self, turns, zoom, flip, seed, shear=0.0, shift=0.0, aspect=0.0, **kwargs):
        super().__init__(**kwargs)
        self.turns, self.zoom, self.flip, self.seed = turns, zoom, flip, seed
        self.shear, self.shift, self.aspect = shear, shift, aspect
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        if not training:
            return inputs
        ops, (n, height, width, _) = keras.ops, keras.ops.shape(inputs)

        def draw(center, reach):
            return keras.random.uniform((n,), center - reach, center + reach, seed=self.generator)

        angle, scale = 2 * np.pi * draw(0, self.turns), draw(1, self.zoom)
        x_scale, y_scale = (
            ops.where(draw(0, 1) < 0, -scale, scale) if direction in self.flip else scale
            for direction in ("horizontal", "vertical")
        )
        stretch = ops.exp(draw(0, np.log1p(self.aspect) / 2)) if self.aspect else 1.0
        x_scale, y_scale = x_scale / stretch, y_scale * stretch
        slant = draw(0, self.shear) if self.shear else 0.0
        shifts = [draw(0, self.shift) if self.shift else 0.0 for _ in range(2)]
        # from a pixel of the output to the place in the input that it is read from
        sine, cosine = ops.sin(angle), ops.cos(angle)
        matrix = [
            [x_scale * cosine, y_scale * (slant * cosine - sine)],
            [x_scale * sine, y_scale * (slant * sine + cosine)],
        ]
        center, rows = ((width - 1) / 2, (height - 1) / 2), []
        for (a, b), middle, part, side in zip(matrix, center, shifts, (width, height), strict=True):
            rows += [a, b, middle - a * center[0] - b * center[1] + part * side]
        transform = ops.stack([*rows, ops.zeros_like(angle), ops.zeros_like(angle)], axis=1)
        return ops.image.affine_transform(inputs, transform, "bilinear", "reflect")

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        names = "turns zoom flip seed shear shift aspect".split()
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="lib")
class RandomGain(layers.Layer):
    """Multiply each channel of each image by a number from 1 - gain to 1 + gain, in training only.

    Values above `white` are clipped.
    """

    def __init__(self, gain: float, white: float, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.gain, self.white, self.seed = gain, white, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        if not training:
            return inputs
        shape, reach = (keras.ops.shape(inputs)[0], 1, 1, 3), (1 - self.gain, 1 + self.gain)
        gains = keras.random.uniform(shape, *reach, seed=self.generator)
        return keras.ops.minimum(inputs * gains, self.white)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {name: getattr(self, name) for name in ("gain", "white", "seed")}
        return super().get_config() | own


def probabilities(x, n_classes: int, activation: str = "softmax"):
    """Return the output of a network, computed in float32."""
    return layers.Dense(n_classes, activation=activation, name="probabilities", **EXACT)(x)


def _color_layers(settings: ColorJitter, seed: int, white: float) -> list[keras.Layer]:
    """Return a layer for each amount that is not 0; values outside the range are clipped."""
    # Keras's RandomContrast only raises it when given one number (3.15), and its RandomSaturation
    # multiplies by f / (1 - f), and clips at the largest saturation, 1 whatever white is
    contrast, saturation = settings.contrast, settings.saturation
    factors = ((1 - saturation) / (2 - saturation), (1 + saturation) / (2 + saturation))
    kinds = {
        "brightness": (layers.RandomBrightness, settings.brightness, white),
        "contrast": (layers.RandomContrast, contrast and (contrast, contrast), white),
        "saturation": (layers.RandomSaturation, saturation and factors, 1.0),
        "hue": (layers.RandomHue, settings.hue_degrees / 180, white),  # of half a turn
    }
    jitter = [
        kind(factor, value_range=(0.0, top), seed=seed + i, name=f"random_{name}", **EXACT)
        for i, (name, (kind, factor, top)) in enumerate(kinds.items())
        if factor
    ]
    if settings.channels:
        options = {"name": "random_channels"} | EXACT
        jitter.append(RandomGain(settings.channels, white, seed + len(kinds), **options))
    return jitter
