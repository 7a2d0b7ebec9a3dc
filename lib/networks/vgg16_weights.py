"""ImageNet weights for a network's backbone; VGG16's from the cache, checked by digest."""

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np

from lib import paths
from lib.networks import array_files, vgg16
from lib.networks.backend import keras

#: SHA-256 over each layer in order: kernel (height, width, in, out), bias; float32 little-endian.
VGG16_DIGEST = "d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd"

#: VGG16's convolutions: how many each block has, and their names.
CONVOLUTIONS = {"block1": 2, "block2": 2, "block3": 3, "block4": 3, "block5": 3}
VGG16_LAYERS = tuple(f"{name}_conv{i + 1}" for name, n in CONVOLUTIONS.items() for i in range(n))
#: The layers of `vgg16.vgg16_transfer` that are not the backbone's and have weights.
HEAD = ("dense", "probabilities")


def load_backbone_weights(model: keras.Model, backbone: str) -> None:
    """Set ImageNet weights on the backbone of a model that `vgg16.vgg16_transfer` built.

    VGG16's are in the cache (`vgg16_tensors`); those of other networks are downloaded by
    keras.applications, which checks a hash of its own.

    Raises
    ------
    OSError
        They are not available; the message names the backbone and says what to do.
    ValueError
        The model is not built on this backbone.
    """
    weights = _vgg16_weights() if backbone == "VGG16" else _imagenet_weights(backbone)
    for layer in model.layers:
        if not layer.weights or layer.name in HEAD:
            continue
        if layer.name not in weights:
            raise ValueError(
                f"{model.name} has layer {layer.name!r}, and {backbone} has none of that name; "
                f"expected a model built on {backbone}"
            )
        layer.set_weights(weights[layer.name])
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with copies of its weights


def _vgg16_weights() -> dict[str, list[np.ndarray]]:
    tensors = vgg16_tensors()
    parts = "kernel", "bias"
    return {name: [tensors[f"{name}/{part}"] for part in parts] for name in VGG16_LAYERS}


def vgg16_tensors() -> dict[str, np.ndarray]:
    """Return VGG16's convolution tensors from the cache, where `tools.fetch_weights` puts them.

    Returns
    -------
    dict of str to ndarray of float32
        `<layer>/kernel`, shape (height, width, in, out), and `<layer>/bias`, shape (out,).

    Raises
    ------
    OSError
        The cache does not have the tensors of `VGG16_DIGEST`; the message says what to do.
    """
    file = cache_file()
    try:
        with np.load(file) as members:
            return check({name: members[name] for name in members.files if "/" in name})
    except array_files.DAMAGE as error:
        raise OSError(
            f"VGG16's ImageNet weights are not available:\n  {file}: {type(error).__name__}: "
            f"{first_line(error)}\nRun python -m tools.fetch_weights"
        ) from None


def vgg16_digest(tensors: dict[str, np.ndarray]) -> str:
    """Return the SHA-256 that identifies a set of VGG16 tensors."""
    digest = hashlib.sha256()
    for name in VGG16_LAYERS:
        digest.update(np.ascontiguousarray(tensors[f"{name}/kernel"], "<f4"))
        digest.update(np.ascontiguousarray(tensors[f"{name}/bias"], "<f4"))
    return digest.hexdigest()


def _imagenet_weights(backbone: str) -> dict[str, list[np.ndarray]]:
    """Return the ImageNet weights of every layer of a network of keras.applications, by name."""
    vgg16.application(backbone)
    try:
        with warnings.catch_warnings():  # MobileNetV2 warns about which of its files it takes
            warnings.filterwarnings("ignore", "`input_shape` is undefined")
            layers = vgg16.backbone_layers(backbone, weights="imagenet")
    except Exception as error:  # that is what Keras raises when a download fails
        raise OSError(
            f"{backbone}'s ImageNet weights are not available: {type(error).__name__}: "
            f"{first_line(error)}\nKeras downloads them from storage.googleapis.com into "
            f"{keras_models()}: copy that folder from a machine that can, or set "
            "backbone: VGG16, whose weights have other sources, too"
        ) from error
    weights = {name: layer.get_weights() for name, layer in layers.items()}
    for layer in layers.values():
        if isinstance(layer, keras.layers.Rescaling) and np.ndim(layer.scale) > 0:
            # EfficientNet with ImageNet weights divides by the root of the deviation once more, in
            # a layer that it lacks without them; here the variance takes that in
            kinds = keras.layers.Normalization
            name = next(name for name, other in layers.items() if isinstance(other, kinds))
            mean, variance, *rest = weights[name]
            weights[name] = [mean, variance / np.square(layer.scale, dtype=np.float32), *rest]
    return weights


def cache_file() -> Path:
    """Return the path of our own file in the cache."""
    return paths.cache_folder() / "vgg16_notop.npz"


def keras_models() -> Path:
    """Return the folder to which Keras downloads weights."""
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"


def check(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors if their digest is `VGG16_DIGEST`, and raise ValueError if not."""
    if (digest := vgg16_digest(tensors)) != VGG16_DIGEST:
        raise ValueError(f"digest {digest}, expected {VGG16_DIGEST}")
    return tensors


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, cut off where it is long."""
    return (str(error).splitlines() or [""])[0][:300]
