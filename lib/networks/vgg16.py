"""The networks, as flat functional Keras models from uint8 RGB images to class probabilities."""

import inspect
import re
from collections.abc import Callable

from lib.config import Augmentation, VGG16Transfer
from lib.networks import common_layers, model_graph
from lib.networks.backend import keras

layers = keras.layers


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


def vgg16_transfer(
    image_size: int, n_classes: int, settings: VGG16Transfer, augmentation: Augmentation, seed: int
) -> keras.Model:
    """Build a network of keras.applications, VGG16 by default, with a new head, as a flat model.

    Its layers are Keras's own; `vgg16_weights.load_backbone_weights` sets their weights. What the
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
    inputs, x = common_layers.image_input(
        image_size, augmentation, seed, white=255.0, size=settings.input_size
    )
    name = settings.backbone
    backbone = backbone_layers(name, input_tensor=expected_input(name, x))
    maps = {each: _maps_of(name, backbone, each) for each in settings.feature_layers}
    if len(maps) < len(settings.feature_layers):
        raise ValueError(
            f"feature_layers names a layer twice: {', '.join(settings.feature_layers)}"
        )
    x = layers.Dense(settings.dense_units, name="dense", **common_layers.RELU)(
        _scaled_averages(maps)
    )
    x = layers.Dropout(settings.dropout, seed=seed, name="dropout")(x)
    outputs = layers.Dense(
        n_classes, activation="softmax", name="probabilities", **common_layers.EXACT
    )(x)
    model = keras.Model(inputs, outputs, name="vgg16_transfer")
    used = [each for each, layer in backbone.items() if layer in model.layers]
    if settings.fine_tune.from_layer not in used:
        part = f"{name} up to {settings.feature_layers[-1]}"
        raise ValueError(
            model_graph.unknown_name(part, "layer", settings.fine_tune.from_layer, used)
        )
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
    inputs, x = common_layers.image_input(
        image_size, None, seed=0, white=255.0, size=input_size or image_size
    )
    # in the model's precision: reports/studies/preprocessing/ was computed so
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
    precision = common_layers.EXACT | precision
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
        raise ValueError(
            model_graph.unknown_name("keras.applications", "network", name, sorted(found))
        )
    return getattr(keras.applications, name)


def _average(maps: dict):
    """Return the averages of maps, joined, each taken in float32."""
    if len(maps) == 1:
        return layers.GlobalAveragePooling2D(name="features", **common_layers.EXACT)(*maps.values())
    return layers.Concatenate(name="features", **common_layers.EXACT)(_averages(maps))


def _averages(maps: dict) -> list:
    return [
        layers.GlobalAveragePooling2D(name=f"{name}_average", **common_layers.EXACT)(each)
        for name, each in maps.items()
    ]


def _scaled_averages(maps: dict):
    """Return the averages of maps, each image's brought to mean 0 and variance 1, and joined.

    VGG16's blocks differ a hundredfold in scale (root mean square 191, 28 and 2 at blocks 3 to 5
    on dermoscopic images). Left so, a new head begins with every answer at 0 or 1.
    """
    scaled = [
        layers.LayerNormalization(
            center=False, scale=False, name=f"{name}_scaled", **common_layers.EXACT
        )(each)
        for name, each in zip(maps, _averages(maps), strict=True)
    ]
    return layers.Concatenate(name="features", **common_layers.EXACT)(scaled)


def _input_kind(name: str) -> str:
    module = application(name).__module__.rpartition(".")[2]
    for kind, modules in INPUT_KINDS.items():
        if module in modules:
            return kind
    raise ValueError(
        f"{name}: INPUT_KINDS of lib/networks/vgg16.py does not say what {module} expects"
    )


def _maps_of(network: str, backbone: dict[str, keras.Layer], name: str):
    if name not in backbone:
        raise ValueError(model_graph.unknown_name(network, "layer", name, backbone))
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
            changes[layer.name] = change | common_layers.EXACT
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
