"""Which number format and which devices a network is trained with: `auto` is a measurement."""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from lib import paths
from lib.config import Training
from lib.networks.backend import keras, machine, versions

#: Another format is taken only if it is so many times as fast: below that, chance may decide.
CLEARLY_FASTER = 1.2
#: Images of a step that is timed, and steps, of which the fastest counts.
BATCH, STEPS = 8, 3
#: Keras's names: weights stay in float32, what flows between the layers has the format.
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@contextlib.contextmanager
def policy(precision: str) -> Iterator[None]:
    """Build layers in this format within the block."""
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(usual)


def candidates() -> list[str]:
    """Return the formats worth a measurement: float16 is for graphics processors alone."""
    return ["float32", "bfloat16", *(["float16"] if on_gpu() else [])]


def on_gpu() -> bool:
    """Say whether Keras's backend has a graphics processor."""
    return devices("gpu") > 0


def devices(kind: str) -> int:
    """Return how many devices of a kind, "cpu" or "gpu", Keras's backend has."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        return len(tensorflow.config.list_logical_devices(kind.upper()))
    if backend == "jax":
        import jax

        with contextlib.suppress(RuntimeError):  # what jax raises where there is none
            return len(jax.devices(kind))
        return 0
    import torch

    return torch.cuda.device_count() if kind == "gpu" else 1


def build(
    builder: Callable[[], keras.Model],
    settings: Training,
    seed: int | None = None,
    note: Path | None = None,
) -> tuple[keras.Model, pd.DataFrame]:
    """Build a network for training, in the format and on the devices that the settings ask for.

    Parameters
    ----------
    seed : int, optional
        Of the first weights, which then depend on nothing that was built or timed before.
    note : Path, optional
        A JSON file that keeps what `auto` measured. On the same machine, with the same versions
        and a network of the same size, it is read instead of measured again: a training that was
        killed goes on in its format.

    Returns
    -------
    model : keras.Model
    speeds : DataFrame
        One row a format that was timed: `precision`, `images_per_second` (a training step on
        `BATCH` images of noise), `chosen`; not timed, and so not a number, where the settings name
        the format.
    """
    chosen, speeds = settings.precision, {settings.precision: float("nan")}
    if chosen == "auto":
        speeds = _measured(builder, note)
        chosen = choose(speeds)
    if seed is not None:
        keras.utils.set_random_seed(seed)
    with policy(chosen), shared_out(settings.devices):
        model = builder()
    table = pd.DataFrame({"precision": list(speeds), "images_per_second": list(speeds.values())})
    return model, table.assign(chosen=table["precision"] == chosen)


def _measured(builder: Callable[[], keras.Model], note: Path | None) -> dict[str, float]:
    """Return the speed of each format, kept or measured now."""
    if note is None:
        return {name: step_speed(builder, name) for name in candidates()}
    of = versions() | {"machine": machine(), "formats": candidates()} | _size(builder())
    kept = paths.read_note(note, {"of", "images_per_second"}, "the formats are measured anew")
    if kept.get("of") == of:
        return kept["images_per_second"]
    speeds = _measured(builder, None)
    paths.write_text(note, json.dumps({"of": of, "images_per_second": speeds}, indent=1) + "\n")
    return speeds


def _size(model: keras.Model) -> dict:
    return {"parameters": model.count_params(), "input": list(model.input_shape[1:])}


def choose(speeds: dict[str, float]) -> str:
    """Return the fastest format, or float32 where none is `CLEARLY_FASTER`."""
    fastest = max(speeds, key=speeds.get)
    return fastest if speeds[fastest] >= CLEARLY_FASTER * speeds["float32"] else "float32"


def step_speed(builder: Callable[[], keras.Model], precision: str) -> float:
    """Return the images per second of a training step in a format; the network is thrown away."""
    with policy(precision):
        model = builder()
    model.compile(keras.optimizers.Adam(1e-5), "categorical_crossentropy")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH, *model.input_shape[1:]), dtype=np.uint8)
    labels = np.eye(model.output_shape[-1], dtype=np.float32)[
        np.arange(BATCH) % model.output_shape[-1]
    ]
    model.train_on_batch(images, labels)  # traces and warms up
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        model.train_on_batch(images, labels)
        seconds.append(time.perf_counter() - started)
    return BATCH / min(seconds)


@contextlib.contextmanager
def shared_out(which: str) -> Iterator[None]:
    """Build a model within the block whose batches are shared out among all devices, if asked to.

    TensorFlow's MirroredStrategy, or Keras's DataParallel on JAX: every device holds the whole
    model and gets a part of each batch. `training.fit` takes the block up again.

    Raises
    ------
    ValueError
        PyTorch, for which Keras has neither.
    """
    if which == "one":
        yield
        return
    backend = keras.backend.backend()
    if backend == "tensorflow":
        with _mirrored().scope():
            yield
    elif backend == "jax":
        with _data_parallel():
            yield
    else:
        raise ValueError(
            f"training.devices = all: the backend is {backend}; expected tensorflow or jax"
        )


@contextlib.contextmanager
def devices_of(model: keras.Model) -> Iterator[int]:
    """Share batches out within the block as the model's weights are; yield the number of devices.

    A part cut out of a model that `shared_out` built does not know by itself how it was built.
    """
    backend, value = keras.backend.backend(), model.weights[0].value
    if backend == "tensorflow":
        import tensorflow

        if isinstance(value, tensorflow.distribute.DistributedValues):
            strategy = value.distribute_strategy
            with strategy.scope():
                yield strategy.num_replicas_in_sync
            return
    elif backend == "jax" and len(value.sharding.device_set) > 1:
        with _data_parallel():
            yield len(value.sharding.device_set)
        return
    yield 1


@functools.cache  # two of them in one process mix up what their devices send each other
def _mirrored():
    import tensorflow

    kind = "GPU" if on_gpu() else "CPU"
    names = [each.name for each in tensorflow.config.list_logical_devices(kind)]
    return tensorflow.distribute.MirroredStrategy(names)


@contextlib.contextmanager
def _data_parallel() -> Iterator[None]:
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)
