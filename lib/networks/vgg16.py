"""VGG16, or another network of keras.applications, with a new classifier: a flat Keras model."""

import inspect
import re
import sys
from collections.abc import Callable

from lib.config import Augmentation, Transfer
from lib.networks import model_graph
from lib.networks.backend import keras
from lib.networks.common_layers import EXACT, RELU, image_input, probabilities

layers = keras.layers


def vgg16_transfer(
    image_size: int,
    n_classes: int,
    settings: Transfer,
    augmentation: Augmentation | None,
    seed: int,
) -> keras.Model:
    """Build a network of keras.applications, VGG16 by default, with a new head, as a flat model.

    `vgg16_weights.load_backbone_weights` sets the weights of its backbone. Resizing, augmentation
    and the input that the network expects (VGG16: BGR minus ImageNet's means) are layers of the
    model. The backbone computes the same in training and outside: its batch normalisation keeps
    ImageNet's statistics, and its dropout is off. Up to the head, only augmentation is random.

    Returns
    -------
    keras.Model
        From uint8 RGB images, shape (n, image_size, image_size, 3), to probabilities, shape
        (n, n_classes). Layers: the backbone's (`block1_conv1` ... `block5_pool` of VGG16),
        `features` (the averages of the maps of `settings.feature_layers`, normalised for each of
        these layers, joined), `dense`, `dropout`, `probabilities`.

    Raises
    ------
    ValueError
        Keras has no such network; or the network has no layer of a name in
        `settings.feature_layers`, or that layer has no maps, or is named twice; or the network has
        no layer `settings.fine_tune.from_layer`, or no feature depends on that layer.
    """
    inputs, x = image_input(image_size, augmentation, seed, white=255.0, size=settings.input_size)
    name = settings.backbone
    backbone = backbone_layers(name, input_tensor=expected_input(name, x))
    maps = {layer: _maps_of(name, backbone, layer) for layer in settings.feature_layers}
    if len(maps) < len(settings.feature_layers):
        raise ValueError(
            f"feature_layers names a layer twice: {', '.join(settings.feature_layers)}"
        )
    x = layers.Concatenate(name="features", **EXACT)(_normalized_averages(maps))
    x = layers.Dense(settings.dense_units, name="dense", **RELU)(x)
    x = layers.Dropout(settings.dropout, seed=seed, name="dropout")(x)
    model = keras.Model(inputs, probabilities(x, n_classes), name="vgg16_transfer")
    used = [key for key, layer in backbone.items() if layer in model.layers]
    first = settings.fine_tune.from_layer
    if first not in used:
        part = f"{name} up to {settings.feature_layers[-1]}"
        raise ValueError(model_graph.unknown_name(part, "layer", first, used))
    return _with_deterministic_backbone(model, backbone)


def backbone_layers(name: str, **options) -> dict[str, keras.Layer]:
    """Build a network of keras.applications without its classifier, and name its layers.

    Keras counts unnamed layers through the whole session (`conv2d_94`); here they are counted
    within the network, from `conv2d_1`.

    Parameters
    ----------
    name : str
        As in keras.applications, such as `VGG16`.
    **options
        Of the network's function; `weights` is None by default. Layers before an `input_tensor`
        are not returned.

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
    before = [] if tensor is None else keras.Model(model.inputs, tensor).layers
    named, counts = {}, {}
    for layer in (layer for layer in model.layers if layer not in before):
        key, stem = layer.name, re.sub(r"_\d+$", "", layer.name)
        if stem.replace("_", "") == type(layer).__name__.lower():  # Keras's name for an unnamed one
            counts[stem] = counts.get(stem, 0) + 1
            key = f"{stem}_{counts[stem]}"
        named[key] = layer
    return named


def expected_input(name: str, x):
    """Turn RGB pixels, 0 to 255, into the input that a network of keras.applications expects.

    Parameters
    ----------
    name : str
        As in keras.applications, such as `VGG16`.
    x : KerasTensor, shape (n, height, width, 3)

    Raises
    ------
    ValueError
        Keras has no such network.
    """
    return sys.modules[application(name).__module__].preprocess_input(x)


def application(name: str) -> Callable[..., keras.Model]:
    """Return the function of keras.applications that builds a network.

    Raises
    ------
    ValueError
        There is none of that name; the message lists the available ones.
    """
    functions = dict(inspect.getmembers(keras.applications, inspect.isfunction))
    if name not in functions:
        known = sorted(functions)
        raise ValueError(model_graph.unknown_name("keras.applications", "network", name, known))
    return functions[name]


def learning_rates(model: keras.Model, settings: Transfer) -> dict[str, float]:
    """Return the learning rate of each layer in fine-tuning, relative to that of the last block.

    A block of the backbone begins with the layer that halves the side of the maps. Layers on
    averages over maps, as in squeeze and excitation, belong to the block that they are in.
    """
    stage, side, blocks = settings.fine_tune, None, {}
    number = 0
    for layer in model.layers:
        if layer.weights and len(layer.output.shape) == 4:
            new = layer.output.shape[1]
            if side is None or 1 < new < 0.7 * side:
                side, number = new, number + 1
            blocks[layer.name] = number
    rates = {name: stage.block_decay ** (number - block) for name, block in blocks.items()}
    head = (stage.head_learning_rate or stage.learning_rate) / stage.learning_rate
    return {layer.name: rates.get(layer.name, head) for layer in model.layers}


def _normalized_averages(maps: dict) -> list:
    """Return the averages of maps; those of each layer have mean 0 and variance 1 in each image.

    VGG16's blocks differ a hundredfold in scale (root mean square 191, 28 and 2 at blocks 3 to 5
    on dermoscopic images). Without normalisation, a new head starts with probabilities of 0 or 1.
    """
    averages = {}
    for name, tensor in maps.items():
        x = layers.GlobalAveragePooling2D(name=f"{name}_average", **EXACT)(tensor)
        options = {"center": False, "scale": False, "name": f"{name}_scaled"} | EXACT
        averages[name] = layers.LayerNormalization(**options)(x)
    return list(averages.values())


def _maps_of(network: str, backbone: dict[str, keras.Layer], name: str):
    if name not in backbone:
        raise ValueError(model_graph.unknown_name(network, "layer", name, backbone))
    maps = backbone[name].output
    if len(maps.shape) != 4:
        raise ValueError(
            f"{network}'s layer {name!r} has outputs of shape {maps.shape}; feature_layers expects "
            "maps, shape (n, height, width, channels)"
        )
    return maps


def _with_deterministic_backbone(
    model: keras.Model, backbone: dict[str, keras.Layer]
) -> keras.Model:
    """Return the model with the backbone's layers named as in `backbone`, and without randomness.

    Layers in which the network itself scales the pixels compute in float32. Batch normalisation is
    frozen, so that Keras uses its own statistics in training, too.
    """
    changes = {}
    for name, layer in backbone.items():
        change = {"name": name} if layer.name != name else {}
        if isinstance(layer, (layers.Rescaling, layers.Normalization)):
            change |= EXACT
        elif isinstance(layer, layers.BatchNormalization):
            change |= {"trainable": False}
        elif isinstance(layer, layers.Dropout):  # EfficientNet's functions take no rate
            change |= {"rate": 0.0}
        if change:
            changes[layer.name] = change
    if not changes:
        return model

    def copy(layer):
        if not isinstance(layer, layers.Layer):
            return layer  # a plain operation, which has no weights
        return type(layer).from_config(layer.get_config() | changes.get(layer.name, {}))

    return keras.models.clone_model(model, clone_function=copy)
