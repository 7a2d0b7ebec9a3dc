"""The networks, as flat functional Keras models from uint8 RGB images to class probabilities."""

import difflib
import inspect
import re
from collections.abc import Callable

import numpy as np

from lib.backend import keras
from lib.config import AlexNet, Augmentation, BaselineCNN, ColorJitter, VGG16Transfer

layers = keras.layers

#: He et al. (ICCV 2015): keeps the scale of the signal through a chain of ReLU layers. With Keras's
#: default (Glorot) the eight convolutions shrink it, and the loss stays where it started.
RELU = {"activation": "relu", "kernel_initializer": "he_uniform"}

#: For layers that must not round: pixels before the first convolution, averages over maps,
#: probabilities. The layers between follow Keras's dtype policy, say mixed_bfloat16.
EXACT = {"dtype": "float32"}

#: Side in pixels of what AlexNet's first convolution sees: 11 x 11 in steps of 4 fit 55 times.
ALEXNET_SIZE = 227

#: What the networks of keras.applications expect of their input, by the module they are from.
#: caffe: BGR with ImageNet's means taken off; tf: -1 to 1; torch: 0 to 1, then ImageNet's means
#: taken off and its deviations divided by; none: 0 to 255, the network does the rest itself.
INPUT_KINDS = {
    "caffe": ("resnet", "vgg16", "vgg19"),
    "tf": (
        "inception_resnet_v2",
        "inception_v3",
        "mobilenet",
        "mobilenet_v2",
        "nasnet",
        "resnet_v2",
        "xception",
    ),
    "torch": ("densenet",),
    "none": ("convnext", "efficientnet", "efficientnet_v2", "mobilenet_v3"),
}

#: ImageNet's mean and standard deviation of red, green and blue, from 0 to 1.
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable(package="lib")
class LocalResponseNormalization(layers.Layer):
    """Divide each value by what its neighbours among the channels amount to, at the same place.

    Section 3.3 of Krizhevsky, Sutskever and Hinton (NIPS 2012), whose constants are the defaults:
    b[i] = a[i] / (bias + alpha * sum of a[j]^2)^beta, with j from i - size // 2 to i + size // 2
    as far as there are channels. Computed in float32, whatever the layer's own precision.

    Parameters
    ----------
    size : int
        Odd: a channel itself and as many on either side.
    """

    def __init__(
        self,
        size: int = 5,
        bias: float = 2.0,
        alpha: float = 1e-4,
        beta: float = 0.75,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size is {size}; expected an odd number of channels, 1 or more")
        if bias <= 0:
            raise ValueError(f"bias is {bias}; expected more than 0, to divide by")
        self.size, self.bias, self.alpha, self.beta = size, bias, alpha, beta

    def call(self, inputs):
        ops, place = keras.ops, np.arange(inputs.shape[-1])
        exact = ops.cast(inputs, "float32")
        # sums of neighbours as one matrix product, and the power as exponential and logarithm:
        # with the gradient 8 times as fast as sums of slices and a power
        near = np.abs(np.subtract.outer(place, place)) <= self.size // 2
        total = ops.matmul(ops.square(exact), near.astype(np.float32))
        factor = ops.exp(-self.beta * ops.log(self.bias + self.alpha * total))
        return ops.cast(exact * factor, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {name: getattr(self, name) for name in ("size", "bias", "alpha", "beta")}
        return super().get_config() | own


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
    inputs, x = _pixels(image_size, augmentation, seed, white=1.0)
    for i, filters in enumerate(settings.filters, start=1):
        x = layers.Conv2D(filters, 3, padding="same", name=f"conv{i}", **RELU)(x)
        x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(settings.dense_units, start=1):
        x = layers.Dense(units, name=f"dense{i}", **RELU)(x)
    outputs = layers.Dense(n_classes, activation=output, name="probabilities", **EXACT)(x)
    return keras.Model(inputs, outputs, name="baseline_cnn")


def alexnet(
    image_size: int, n_classes: int, settings: AlexNet, augmentation: Augmentation, seed: int
) -> keras.Model:
    """Build AlexNet (Krizhevsky, Sutskever and Hinton, NIPS 2012), to be trained from scratch.

    5 convolutions with ReLU, local response normalisation after the first two, overlapping max
    pooling (3 x 3, steps of 2) after the first, second and fifth, then two dense ReLU layers, each
    preceded by dropout. One thing is left out: the paper splits the convolutions in two groups
    because its network lay on two graphics cards; here every convolution sees all channels.

    Returns
    -------
    keras.Model
        From uint8 RGB images, shape (n, image_size, image_size, 3), resized to 227 pixels inside
        the model, to probabilities, shape (n, n_classes). Layers `conv1` ... `conv5`, `pool1`,
        `pool2`, `pool5`, `normalize1`, `normalize2`, `dense1`, `dense2`, `probabilities`.
    """
    inputs, x = _pixels(image_size, augmentation, seed, white=1.0, size=ALEXNET_SIZE)
    shapes = ((11, 4, "valid"), (5, 1, "same"), (3, 1, "same"), (3, 1, "same"), (3, 1, "same"))
    for i, (filters, shape) in enumerate(zip(settings.filters, shapes, strict=True), start=1):
        side, step, padding = shape
        x = layers.Conv2D(filters, side, step, padding, name=f"conv{i}", **RELU)(x)
        if i in (1, 2):
            x = LocalResponseNormalization(name=f"normalize{i}")(x)
        if i in (1, 2, 5):
            x = layers.MaxPooling2D(3, strides=2, name=f"pool{i}")(x)
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(settings.dense_units, start=1):
        x = layers.Dropout(settings.dropout, seed=seed + i, name=f"dropout{i}")(x)
        x = layers.Dense(units, name=f"dense{i}", **RELU)(x)
    outputs = layers.Dense(n_classes, activation="softmax", name="probabilities", **EXACT)(x)
    return keras.Model(inputs, outputs, name="alexnet")


def vgg16_transfer(
    image_size: int, n_classes: int, settings: VGG16Transfer, augmentation: Augmentation, seed: int
) -> keras.Model:
    """Build a network of keras.applications, VGG16 by default, with a new head, as a flat model.

    Its layers are Keras's own; `lib.weights.load_backbone_weights` brings their weights. What the
    network expects of its input (VGG16: BGR, ImageNet's means taken off) happens inside the model.
    Called with `training=True`, the backbone still computes what it does without: its batch
    normalisations keep ImageNet's statistics, and its dropout, if it has some, is off. Up to the
    head, only augmentation is random.

    Returns
    -------
    keras.Model
        From uint8 RGB images, shape (n, image_size, image_size, 3), to probabilities, shape
        (n, n_classes). Layers: the backbone's (`block1_conv1` ... `block5_pool` of VGG16),
        `features` (the averages of the maps of `settings.feature_layers`, each set of them brought
        to one scale, joined), `dense`, `dropout`, `probabilities`.

    Raises
    ------
    ValueError
        Keras has no such network; or the network has no layer of a name in
        `settings.feature_layers`, or no maps come from it, or it is named twice; or it has none
        of the name in `settings.fine_tune.from_layer`, or no feature depends on that layer.
    """
    inputs, x = _pixels(image_size, augmentation, seed, white=255.0, size=settings.input_size)
    name = settings.backbone
    backbone = backbone_layers(name, input_tensor=expected_input(name, x))
    maps = {each: _maps_of(name, backbone, each) for each in settings.feature_layers}
    if len(maps) < len(settings.feature_layers):
        raise ValueError(
            f"feature_layers names a layer twice: {', '.join(settings.feature_layers)}"
        )
    x = layers.Dense(settings.dense_units, name="dense", **RELU)(_scaled_averages(maps))
    x = layers.Dropout(settings.dropout, seed=seed, name="dropout")(x)
    outputs = layers.Dense(n_classes, activation="softmax", name="probabilities", **EXACT)(x)
    model = keras.Model(inputs, outputs, name="vgg16_transfer")
    used = [each for each, layer in backbone.items() if layer in model.layers]
    if settings.fine_tune.from_layer not in used:
        part = f"{name} up to {settings.feature_layers[-1]}"
        raise ValueError(_unknown(part, "layer", settings.fine_tune.from_layer, used))
    return _settled(model, backbone)


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
    inputs, x = _pixels(image_size, None, seed=0, white=255.0, size=input_size or image_size)
    # in the model's precision: reports/preprocessing/ was computed so
    vgg16 = backbone_layers("VGG16", input_tensor=expected_input("VGG16", x, dtype=None))
    names = [f"block{block}_pool" for block in blocks]
    outputs = _average({name: vgg16[name].output for name in names})
    return keras.Model(inputs, outputs, name="vgg16_features")


def backbone_layers(name: str, **options) -> dict[str, keras.Layer]:
    """Build a network of keras.applications without its classifier, and name its layers.

    Keras counts the layers that its code leaves unnamed through the whole session (`conv2d_94`),
    so that their names say nothing; here they are counted within the network, in its order, from
    `conv2d_1`.

    Parameters
    ----------
    name : str
        As in keras.applications, say `VGG16`.
    **options
        Of the network's function; `weights` is None unless given. What lies before an
        `input_tensor` is left out of the answer.

    Returns
    -------
    dict of str to Layer
        In the order of the network.

    Raises
    ------
    ValueError
        Keras has no such network.
    """
    build = application(name)
    tensor = options.get("input_tensor")
    if tensor is not None:  # or the smallest size that the network takes is not checked
        options = {"input_shape": tensor.shape[1:]} | options
    model = build(include_top=False, **{"weights": None} | options)
    start = [] if tensor is None else keras.Model(model.inputs, tensor).layers
    made = [each for each in model.layers if each not in start]
    named, counts = {}, {}
    for layer in made:
        stem = re.sub(r"_\d+$", "", layer.name)
        if stem.replace("_", "") == type(layer).__name__.lower():  # Keras's name for an unnamed one
            counts[stem] = counts.get(stem, 0) + 1
            named[f"{stem}_{counts[stem]}"] = layer
        else:
            named[layer.name] = layer
    return named


def expected_input(name: str, x, **precision):
    """Turn RGB pixels, 0 to 255, into what a network of keras.applications expects.

    The same as `preprocess_input` of the network's module, made of layers.

    Parameters
    ----------
    name : str
        As in keras.applications, say `VGG16`.
    x : KerasTensor, shape (n, height, width, 3)
    **precision
        `dtype` of the layers, float32 unless given.

    Raises
    ------
    ValueError
        Keras has no such network, or it is of a family that `INPUT_KINDS` lacks.
    """
    precision = EXACT | precision
    kind = _input_kind(name)
    if kind == "caffe":
        means = [-123.68, -116.779, -103.939]
        x = layers.Rescaling(1.0, offset=means, name="subtract_mean", **precision)(x)
        return keras.ops.flip(x, axis=-1)
    if kind == "tf":
        return layers.Rescaling(1 / 127.5, offset=-1.0, name="standardize", **precision)(x)
    if kind == "torch":
        scale = [1 / (255 * deviation) for deviation in IMAGENET_DEVIATION]
        pairs = zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)
        offset = [-mean / deviation for mean, deviation in pairs]
        return layers.Rescaling(scale, offset, name="standardize", **precision)(x)
    return x


def application(name: str) -> Callable[..., keras.Model]:
    """Return the function of keras.applications that builds a network.

    Raises
    ------
    ValueError
        There is none of that name; the message lists those there are.
    """
    found = {key for key, each in vars(keras.applications).items() if inspect.isfunction(each)}
    if name not in found:
        raise ValueError(_unknown("keras.applications", "network", name, sorted(found)))
    return getattr(keras.applications, name)


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


def split_before(model: keras.Model, layer: str) -> tuple[keras.Model, keras.Model]:
    """Cut a model in two: `layer` and all that depends on it, and all the rest.

    The parts share their layers, and so their weights, with `model`. Any graph of layers may be
    cut; a tensor of the first part that the second needs crosses over.

    Returns
    -------
    trunk, top : keras.Model
        `top(trunk(x))` equals `model(x)`; training `top` trains `model`. What crosses is the
        output of `trunk` and the input of `top`: one tensor, or a list, the first being what
        `layer` itself takes.

    Raises
    ------
    ValueError
        The model has no such layer, or `layer` is its input, or the model puts out something that
        does not depend on `layer`.
    """
    return _split(model, layer, [])


def split_after(model: keras.Model, layer: str) -> tuple[keras.Model, keras.Model]:
    """Cut a model in two: all that depends on what `layer` puts out, and all the rest.

    As `split_before`, but `layer` belongs to the first part, and the first tensor that crosses is
    its output. No cut can be made after the last layer.
    """
    found = [each for each in calls(model) if each.operation.name == layer]
    return _split(model, layer, [found[-1].outputs[0]] if found else [])


def train_from(model: keras.Model, layer: str) -> None:
    """Make `layer` and all that depend on it trainable, and no others.

    Batch normalisation never is: its statistics, scale and offset stay those of ImageNet. Switched
    on, it would use the statistics of each batch, and small batches would overwrite its own.

    Raises
    ------
    ValueError
        The model has no such layer.
    """
    chosen = {id(call.operation) for call in _dependents(model, layer)}
    for each in model.layers:
        frozen = isinstance(each, layers.BatchNormalization)
        each.trainable = id(each) in chosen and not frozen


def _split(model, layer, crossing):
    behind = _dependents(model, layer)
    if crossing:
        behind = [call for call in behind if call.operation.name != layer]
    made = {id(tensor) for call in behind for tensor in call.outputs}
    if not made.issuperset(map(id, model.outputs)):
        raise ValueError(f"what {model.name} puts out does not depend on what comes of {layer!r}")
    for tensor in (tensor for call in behind for tensor in call.input_tensors):
        if id(tensor) not in made | {id(each) for each in crossing}:
            crossing = [*crossing, tensor]
    if not crossing:
        raise ValueError(f"nothing comes before {layer!r}, an input of {model.name}")
    between = crossing if len(crossing) > 1 else crossing[0]
    trunk = keras.Model(model.input, between, name=f"{model.name}_to_{layer}")
    return trunk, keras.Model(between, model.output, name=f"{model.name}_from_{layer}")


def _dependents(model, layer):
    """Return the calls of `layer` and of all that depend on it, in order."""
    names = [each.name for each in model.layers]
    if layer not in names:
        raise ValueError(_unknown(model.name, "layer", layer, names))
    found, made = [], set()
    for call in calls(model):
        if call.operation.name == layer or any(id(each) in made for each in call.input_tensors):
            found.append(call)
            made |= {id(each) for each in call.outputs}
    return found


def calls(model):
    """Return Keras's nodes of a functional model, each after those whose outputs it takes."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in model._nodes_by_depth[depth]]


def _unknown(owner, kind, name, known):
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    more = f" and {len(known) - 60} more" if len(known) > 60 else ""
    return f"{owner} has no {kind} {name!r}{hint}; it has: {', '.join(known[:60])}{more}"


def _pixels(
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


def _average(maps: dict):
    """Return the averages of maps, joined, each taken in float32."""
    if len(maps) == 1:
        return layers.GlobalAveragePooling2D(name="features", **EXACT)(*maps.values())
    return layers.Concatenate(name="features", **EXACT)(_averages(maps))


def _averages(maps: dict) -> list:
    return [
        layers.GlobalAveragePooling2D(name=f"{name}_average", **EXACT)(each)
        for name, each in maps.items()
    ]


def _scaled_averages(maps: dict):
    """Return the averages of maps, each image's brought to mean 0 and variance 1, and joined.

    VGG16's blocks differ a hundredfold in scale (root mean square 191, 28 and 2 at blocks 3 to 5
    on dermoscopic images). Left so, a new head begins with every answer at 0 or 1.
    """
    scaled = [
        layers.LayerNormalization(center=False, scale=False, name=f"{name}_scaled", **EXACT)(each)
        for name, each in zip(maps, _averages(maps), strict=True)
    ]
    return layers.Concatenate(name="features", **EXACT)(scaled)


def _input_kind(name: str) -> str:
    module = application(name).__module__.rpartition(".")[2]
    for kind, modules in INPUT_KINDS.items():
        if module in modules:
            return kind
    raise ValueError(f"{name}: INPUT_KINDS of lib/models.py does not say what {module} expects")


def _maps_of(network: str, backbone: dict[str, keras.Layer], name: str):
    if name not in backbone:
        raise ValueError(_unknown(network, "layer", name, backbone))
    maps = backbone[name].output
    if len(maps.shape) != 4:
        raise ValueError(
            f"{network}'s layer {name!r} puts out shape {maps.shape}; feature_layers expects maps, "
            "shape (n, height, width, channels)"
        )
    return maps


def _settled(model: keras.Model, backbone: dict[str, keras.Layer]) -> keras.Model:
    """Return the model with the backbone's layers named as in `backbone`, and nothing random there.

    Layers in which the network itself scales the pixels are put to float32 as well. Batch
    normalisation is frozen, which in Keras makes it use its own statistics in training, too.
    """
    changes = {layer.name: {"name": name} for name, layer in backbone.items() if layer.name != name}
    for layer in backbone.values():
        change = changes.get(layer.name, {})
        if isinstance(layer, (layers.Rescaling, layers.Normalization)):
            changes[layer.name] = change | EXACT
        elif isinstance(layer, layers.BatchNormalization):
            changes[layer.name] = change | {"trainable": False}
        elif isinstance(layer, layers.Dropout):  # EfficientNet's functions take no rate
            changes[layer.name] = change | {"rate": 0.0}
    if not changes:
        return model

    def copy(layer):
        if not isinstance(layer, layers.Layer):
            return layer  # a plain operation, which has no weights
        return type(layer).from_config(layer.get_config() | changes.get(layer.name, {}))

    return keras.models.clone_model(model, clone_function=copy)


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
