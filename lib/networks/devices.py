"""The number format and the devices that a network is trained with: `training` in a configuration.

`training.precision` names the number format of the layers in training. `auto` means bfloat16 where
the GPU or the processor computes it natively, otherwise float32. Weights stay in float32 always.
`training.devices: all` shares each batch out among the GPUs of the machine.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

from lib.config import Training
from lib.networks.backend import computes_bfloat16, gpus, keras

#: Keras's names: weights are in float32, the values between the layers in the number format.
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def build(
    builder: Callable[[], keras.Model], settings: Training, seed: int | None = None
) -> keras.Model:
    """Build a network for training, in the number format and on the devices of the settings.

    Parameters
    ----------
    builder : callable
        Builds the network, without arguments.
    seed : int, optional
        Decides the first weights, whatever was built before.

    Raises
    ------
    ValueError
        `devices: all` with PyTorch, which Keras does not support.
    """
    if seed is not None:
        keras.utils.set_random_seed(seed)
    with policy(settings.precision), on_devices(settings.devices):
        return builder()


@contextlib.contextmanager
def policy(precision: str) -> Iterator[None]:
    """Build layers in this number format within the block.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16", "float16"}
    """
    if precision == "auto":
        precision = "bfloat16" if computes_bfloat16() else "float32"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def on_devices(devices: str) -> Iterator[None]:
    """Build a model within the block on one device or on all, each of which holds all weights.

    All means TensorFlow's MirroredStrategy, or Keras's DataParallel on JAX: every device gets a
    part of each batch. `training.fit` trains the model, and parts of it, in the same way.

    Parameters
    ----------
    devices : {"one", "all"}

    Raises
    ------
    ValueError
        All devices with PyTorch, which Keras does not support.
    """
    backend = keras.backend.backend()
    if devices == "one":
        yield
    elif backend == "tensorflow":
        with _mirrored_strategy().scope():
            yield
    elif backend == "jax":
        with keras.distribution.DataParallel().scope():
            yield
    else:
        raise ValueError(
            f"training.devices = all: the backend is {backend}; expected tensorflow or jax"
        )


@contextlib.contextmanager
def devices_of(model: keras.Model) -> Iterator[int]:
    """Train a model within the block on the devices that it was built on; yield their number.

    A part of a model does not know how the model was built, but its weights do.
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
        with keras.distribution.DataParallel().scope():
            yield len(value.sharding.device_set)
        return
    yield 1


@functools.cache  # with two strategies in one process, their devices' messages get mixed up
def _mirrored_strategy():
    import tensorflow

    logical_devices = tensorflow.config.list_logical_devices("GPU" if gpus() else "CPU")
    return tensorflow.distribute.MirroredStrategy([device.name for device in logical_devices])
