"""Keras, imported quietly, and what it runs on: versions, processor and GPUs."""

import importlib.metadata
import logging
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib import paths

#: What TensorFlow 2.21 writes to standard error at every start, whatever TF_CPP_MIN_LOG_LEVEL is.
START_MESSAGES = (
    "WARNING: All log messages before absl::InitializeLog()",
    "oneDNN custom operations are on",
    "This TensorFlow binary is optimized to use available CPU instructions",
    "To enable the following instructions:",
)


@contextmanager
def _without_start_messages() -> Iterator[None]:
    """Drop `START_MESSAGES` from standard error, also where C++ writes them; pass on the rest."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines(keepends=True):
                if not any(message in line for message in START_MESSAGES):
                    sys.stderr.write(line)


os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # instead of the one in a user's keras.json
with _without_start_messages():
    import keras

#: A notebook trains several networks, and each traces functions of its own; TensorFlow mistakes
#: them for one function that is traced again and again.
RETRACING = "triggered tf.function retracing"
logging.getLogger("tensorflow").addFilter(lambda record: RETRACING not in record.getMessage())

keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")


def versions() -> dict[str, str]:
    """Return the versions that decide how numbers are rounded: Python, Keras and its backend."""
    backend = keras.backend.backend()
    # TensorFlow has one package for each kind of processor
    package = importlib.metadata.packages_distributions()[backend][0]
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "backend": f"{backend} {importlib.metadata.version(package)}",
    }


def may_use(made_with: dict, now: dict, is_finished: bool) -> bool:
    """Say whether results that were computed elsewhere, or before, stand for those made here.

    They do if everything named is the same, such as versions and number formats. Otherwise only
    what another backend has finished does: `tools.train` makes it, on a machine with other GPUs.
    """
    backends = [name.get("backend", "").partition(" ")[0] for name in (made_with, now)]
    return made_with == now or (is_finished and len(set(backends)) > 1)


def machine() -> str:
    """Return system, processor, cores, threads that were set, cache folder, GPUs, for a reader."""
    parts = [f"{platform.system()} {platform.machine()}", processor(), f"{os.cpu_count()} cores"]
    parts += [f"cache folder {paths.relative(paths.cache_folder())}"]
    parts += [f"{name}={n}" for name, n in os.environ.items() if name.endswith("_THREADS")]
    return ", ".join([*parts, *gpus()])


def processor() -> str:
    """Return the processor's name, or its architecture where the system does not name it."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def gpus() -> list[str]:
    """Return the names of the GPUs that Keras's backend can use."""
    return [name for name, _ in _gpus()]


def computes_bfloat16() -> bool:
    """Say whether bfloat16 is native here: on every GPU or, without one, on the processor.

    GPUs have it from compute capability 8 on (NVIDIA CUDA C++ Programming Guide, "Compute
    Capabilities"), Intel and AMD processors with the flag `amx_bf16` or `avx512_bf16`.
    """
    if capabilities := [capability for _, capability in _gpus()]:
        return min(capabilities) >= 8
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(_cpu_info("flags").split())


def _gpus() -> list[tuple[str, int]]:
    """Return name and compute capability (its first number, 0 if unknown) of each GPU."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        details_of = tensorflow.config.experimental.get_device_details
        details = [details_of(gpu) for gpu in tensorflow.config.list_physical_devices("GPU")]
        return [
            (d.get("device_name", "GPU"), d.get("compute_capability", (0,))[0]) for d in details
        ]
    if backend == "jax":
        import jax

        devices = [device for device in jax.devices() if device.platform != "cpu"]
        numbers = [re.match(r"\d*", str(device.compute_capability)).group() for device in devices]
        return [(d.device_kind, int(n or 0)) for d, n in zip(devices, numbers, strict=True)]
    from torch import cuda

    n = cuda.device_count()
    return [(cuda.get_device_name(i), cuda.get_device_capability(i)[0]) for i in range(n)]


def _cpu_info(field: str) -> str:
    """Return a field of Linux's /proc/cpuinfo, or nothing."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
