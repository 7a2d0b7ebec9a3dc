"""Keras, imported without the start-up chatter that TensorFlow writes to standard error."""

import importlib.metadata
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

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
    """Return what kind of machine this is."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def _distribution(backend: str) -> str:
    """Return the package that brings a backend: TensorFlow has one for each kind of processor."""
    return importlib.metadata.packages_distributions()[backend][0]


__all__ = ["keras", "machine", "versions", "without_chatter"]
