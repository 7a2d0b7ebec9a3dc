"""Layers that all networks share: image input, resizing, augmentation, output."""

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
    """Return layers for random flips, rotation and zoom (paper, Methodology), and colour jitter.

    They act in training only: in `fit`, not in `predict`. A model that is called directly needs
    `training=False`, since Keras augments by default. Pixels outside a rotated image are filled by
    reflection. Every image of a batch is augmented differently.

    Parameters
    ----------
    white : float
        The largest possible value of a pixel at the input of these layers, 1 or 255.
    """
    augmentation, reflect = [], {"fill_mode": "reflect"} | EXACT
    if settings.flip != "none":
        flip = layers.RandomFlip(settings.flip, seed=seed, name="random_flip", **EXACT)
        augmentation.append(flip)
    if (turns := settings.rotation_degrees / 360) > 0:
        rotation = layers.RandomRotation(turns, seed=seed + 1, name="random_rotation", **reflect)
        augmentation.append(rotation)
    if settings.zoom:
        zoom = layers.RandomZoom(settings.zoom, seed=seed + 2, name="random_zoom", **reflect)
        augmentation.append(zoom)
    return augmentation + _color_layers(settings.color_jitter or ColorJitter(), seed + 3, white)


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
    return [
        kind(factor, value_range=(0.0, top), seed=seed + i, name=f"random_{name}", **EXACT)
        for i, (name, (kind, factor, top)) in enumerate(kinds.items())
        if factor
    ]
