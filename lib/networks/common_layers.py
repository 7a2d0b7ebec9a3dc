"""Layers that all networks share: image input, resizing, augmentation."""

from lib.config import Augmentation, ColorJitter
from lib.networks.backend import keras

layers = keras.layers


#: He et al. (ICCV 2015): keeps the scale of the signal through a chain of ReLU layers. With Keras's
#: default (Glorot) the eight convolutions shrink it, and the loss stays where it started.
RELU = {"activation": "relu", "kernel_initializer": "he_uniform"}

#: For layers that must not round: pixels before the first convolution, averages over maps,
#: probabilities. The layers between follow Keras's dtype policy, say mixed_bfloat16.
EXACT = {"dtype": "float32"}


def augmentation_layers(settings: Augmentation, seed: int, white: float = 1.0) -> list[keras.Layer]:
    """Return layers for random flips, rotation and zoom (paper, Methodology), and colour jitter.

    They act in training only: in `fit`, not in `predict`. Called directly, a model must be told
    `training=False`, for Keras's default is to augment. What lies outside a turned image is
    filled by reflection. Every image of a batch has its own draws.

    Parameters
    ----------
    white : float
        The largest value a pixel may have where the layers stand, 1 or 255; the smallest is 0.
        Only colour jitter heeds it.
    """
    made = []
    if settings.flip != "none":
        made.append(layers.RandomFlip(settings.flip, seed=seed, name="random_flip", **EXACT))
    if settings.rotation_degrees:
        turn = settings.rotation_degrees / 360
        named = {"name": "random_rotation", **EXACT}
        made.append(layers.RandomRotation(turn, "reflect", seed=seed + 1, **named))
    if settings.zoom:
        named = {"name": "random_zoom", **EXACT}
        made.append(layers.RandomZoom(settings.zoom, fill_mode="reflect", seed=seed + 2, **named))
    return made + _color_layers(settings.color_jitter or ColorJitter(), seed + 3, white)


def image_input(
    image_size: int, augmentation: Augmentation | None, seed: int, white: float, size: int = 0
):
    """Return a model's input and its pixels as floats up to `white`, resized and augmented."""
    inputs = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    name = "rescale" if white == 1 else "to_float"
    x = layers.Rescaling(white / 255, name=name, **EXACT)(inputs)
    if size not in (0, image_size):
        x = layers.Resizing(size, size, antialias=True, name="resize", **EXACT)(x)
    for layer in augmentation_layers(augmentation, seed, white) if augmentation else ():
        x = layer(x)
    return inputs, x


def _color_layers(settings: ColorJitter, seed: int, white: float) -> list[keras.Layer]:
    """Return a layer for each amount that is not 0; what leaves the range of values is clipped."""
    # Keras's RandomContrast only raises it when given one number (3.15), and its RandomSaturation
    # multiplies by f / (1 - f), and clips at the largest saturation, 1 whatever white is
    contrast, saturation = settings.contrast, settings.saturation
    shares = ((1 - saturation) / (2 - saturation), (1 + saturation) / (2 + saturation))
    made = {
        "brightness": (layers.RandomBrightness, settings.brightness, white),
        "contrast": (layers.RandomContrast, contrast and (contrast, contrast), white),
        "saturation": (layers.RandomSaturation, saturation and shares, 1.0),
        "hue": (layers.RandomHue, settings.hue_degrees / 180, white),  # of half a turn
    }
    return [
        kind(factor, value_range=(0.0, top), seed=seed + place, name=f"random_{name}", **EXACT)
        for place, (name, (kind, factor, top)) in enumerate(made.items())
        if factor
    ]
