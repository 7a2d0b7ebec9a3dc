"""Keras, imported without the start-up chatter that TensorFlow writes to standard error."""

import importlib.metadata
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lib.networks.hardware import processor

#: What TensorFlow 2.21 says at every start, whatever TF_CPP_MIN_LOG_LEVEL is.
CHATTER = (
    "WARNING: All log messages before absl::InitializeLog()",
    "oneDNN custom operations are on",
    "This TensorFlow binary is optimized to use available CPU instructions",
    "To enable the following instructions:",
)


@contextmanager
def without_chatter() -> Iterator[None]:
    """Hold back what is written to standard error, C++ included, and pass on all but chatter."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            lines = held.read().decode(errors="replace").splitlines(keepends=True)
            sys.stderr.writelines(line for line in lines if not any(c in line for c in CHATTER))


os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # not what a user's keras.json says
with without_chatter():
    import keras

#: Several networks are trained in one notebook, each with its own functions to trace; TensorFlow
#: takes that for one function traced again and again.
RETRACING = "triggered tf.function retracing"
logging.getLogger("tensorflow").addFilter(lambda record: RETRACING not in record.getMessage())

keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")


def versions() -> dict[str, str]:
    """Return the versions that decide how numbers are rounded."""
    backend = keras.backend.backend()
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "backend": f"{backend} {importlib.metadata.version(_distribution(backend))}",
    }


def machine() -> str:
    """Return what kind of machine this is: system, processor, cores and graphics processors."""
    parts = [f"{platform.system()} {platform.machine()}", processor(), f"{os.cpu_count()} cores"]
    return ", ".join(parts + graphics_processors())


def graphics_processors() -> list[str]:
    """Return the name of each graphics processor that Keras's backend has."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        details = tensorflow.config.experimental.get_device_details
        found = tensorflow.config.list_physical_devices("GPU")
        return [details(each).get("device_name", each.name) for each in found]
    if backend == "jax":
        import jax

        with suppress(RuntimeError):  # what jax raises where there is none
            return [each.device_kind for each in jax.devices("gpu")]
        return []
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _distribution(backend: str) -> str:
    """Return the package that brings a backend: TensorFlow has one for each kind of processor."""
    return importlib.metadata.packages_distributions()[backend][0]


__all__ = ["keras", "machine", "versions", "without_chatter"]
