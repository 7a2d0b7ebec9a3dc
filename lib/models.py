"""The networks, as flat functional Keras models from uint8 RGB images to class probabilities."""

from lib.backend import keras
from lib.config import Augmentation, BaselineCNN, ColorJitter, VGG16Transfer

layers = keras.layers

#: He et al. (ICCV 2015): keeps the scale of the signal through a chain of ReLU layers. With Keras's
#: default (Glorot) the eight convolutions shrink it, and the loss stays where it started.
RELU = {"activation": "relu", "kernel_initializer": "he_uniform"}


def baseline_cnn(
    image_size: int, n_classes: int, settings: BaselineCNN, augmentation: Augmentation, seed: int
) -> keras.Model:
    """Build the paper's CNN: 8 convolutions, each followed by max pooling, and 2 dense layers.

    3 x 3 convolutions with ReLU and padding, 2 x 2 poolings, two dense ReLU layers and a dense
    output. The paper gives the output a ReLU, which cannot be a probability distribution:
    softmax here. The paper does not give the numbers of filters and units: see the configuration.

    Parameters
    ----------
    image_size : int
        Side in pixels, at least 2**8: each pooling halves it.

    Returns
    -------
    keras.Model
        From uint8 RGB images, shape (n, image_size, image_size, 3), to probabilities, shape
        (n, n_classes). Layers `conv1` ... `conv8`, `pool1` ... `pool8`, `dense1`, `dense2`.
    """
    if image_size < 2 ** len(settings.filters):
        raise ValueError(
            f"image_size is {image_size}; {len(settings.filters)} poolings by two need at least "
            f"{2 ** len(settings.filters)} pixels"
        )
    inputs = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    for layer in augmentation_layers(augmentation, seed, white=1.0):
        x = layer(x)
    for i, filters in enumerate(settings.filters, start=1):
        x = layers.Conv2D(filters, 3, padding="same", name=f"conv{i}", **RELU)(x)
        x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(settings.dense_units, start=1):
        x = layers.Dense(units, name=f"dense{i}", **RELU)(x)
    outputs = layers.Dense(n_classes, activation="softmax", name="probabilities")(x)
    return keras.Model(inputs, outputs, name="baseline_cnn")


def vgg16_transfer(
    image_size: int, n_classes: int, settings: VGG16Transfer, augmentation: Augmentation, seed: int
) -> keras.Model:
    """Build VGG16 (Simonyan and Zisserman, 2015) with a new head, all in one flat model.

    The convolutions are Keras's own; `lib.weights.load_vgg16_weights` brings their weights. What
    VGG16 expects of its input (BGR, ImageNet's means taken off) happens inside the model.

    Returns
    -------
    keras.Model
        From uint8 RGB images, shape (n, image_size, image_size, 3), to probabilities, shape
        (n, n_classes). Layers `block1_conv1` ... `block5_pool`, `features` (global average
        pooling, 512 values), `dense`, `probabilities`.
    """
    size = settings.input_size
    inputs = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1.0, name="to_float")(inputs)
    if size != image_size:
        x = layers.Resizing(size, size, antialias=True, name="resize")(x)
    for layer in augmentation_layers(augmentation, seed, white=255.0):
        x = layer(x)
    x = layers.GlobalAveragePooling2D(name="features")(_vgg16(x).output)
    x = layers.Dense(settings.dense_units, name="dense", **RELU)(x)
    x = layers.Dropout(settings.dropout, seed=seed, name="dropout")(x)
    outputs = layers.Dense(n_classes, activation="softmax", name="probabilities")(x)
    return keras.Model(inputs, outputs, name="vgg16_transfer")


def vgg16_features(
    image_size: int, blocks: tuple[int, ...] = (3, 4, 5), input_size: int | None = None
) -> keras.Model:
    """Build VGG16 up to the averages of some blocks' last maps: features for a linear classifier.

    The averages are taken in float32, whatever precision the convolutions have.

    Parameters
    ----------
    input_size : int, optional
        Side in pixels that VGG16 sees, resized to inside the model; by default `image_size`.

    Returns
    -------
    keras.Model
        From uint8 RGB images, shape (n, image_size, image_size, 3), to features, shape
        (n, 1280) for blocks 3 (256 values), 4 (512) and 5 (512).
    """
    size, exact = input_size or image_size, {"dtype": "float32"}
    inputs = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1.0, name="to_float", **exact)(inputs)
    if size != image_size:
        x = layers.Resizing(size, size, antialias=True, name="resize", **exact)(x)
    backbone = _vgg16(x)
    maps = [backbone.get_layer(f"block{block}_pool").output for block in blocks]
    pooled = [layers.GlobalAveragePooling2D(**exact)(each) for each in maps]
    joined = layers.Concatenate(name="features", **exact)
    outputs = joined(pooled) if len(pooled) > 1 else pooled[0]
    return keras.Model(inputs, outputs, name="vgg16_features")


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
        made.append(layers.RandomFlip(settings.flip, seed=seed, name="random_flip"))
    if settings.rotation_degrees:
        turn = settings.rotation_degrees / 360
        made.append(layers.RandomRotation(turn, "reflect", seed=seed + 1, name="random_rotation"))
    if settings.zoom:
        zoom = settings.zoom
        made.append(layers.RandomZoom(zoom, fill_mode="reflect", seed=seed + 2, name="random_zoom"))
    return made + _color_layers(settings.color_jitter or ColorJitter(), seed + 3, white)


def split_model(model: keras.Model, layer: str) -> tuple[keras.Model, keras.Model]:
    """Cut a chain of layers after one of them; both parts share their layers with `model`.

    Returns
    -------
    trunk, top : keras.Model
        `top(trunk(x))` equals `model(x)`; training `top` trains `model`.
    """
    if layer not in [each.name for each in model.layers]:
        names = ", ".join(each.name for each in model.layers)
        raise ValueError(f"{model.name} has no layer {layer!r}; it has: {names}")
    chain = model.operations[1:]  # without the input
    place = 1 + [each.name for each in chain].index(layer)
    shape = model.get_layer(layer).output.shape[1:]
    first, second = model.input, keras.Input(shape, name=f"from_{layer}")
    trunk = keras.Model(first, _apply(chain[:place], first), name=f"{model.name}_to_{layer}")
    top = keras.Model(second, _apply(chain[place:], second), name=f"{model.name}_from_{layer}")
    return trunk, top


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
        kind(factor, value_range=(0.0, top), seed=seed + place, name=f"random_{name}")
        for place, (name, (kind, factor, top)) in enumerate(made.items())
        if factor
    ]


def _vgg16(x) -> keras.Model:
    """Return Keras's VGG16 on RGB in [0, 255]: it expects BGR with ImageNet's means taken off."""
    x = layers.Rescaling(1.0, offset=[-123.68, -116.779, -103.939], name="subtract_mean")(x)
    x = keras.ops.flip(x, axis=-1)
    return keras.applications.VGG16(include_top=False, weights=None, input_tensor=x)


def _apply(operations, x):
    for operation in operations:
        x = operation(x)
    return x
