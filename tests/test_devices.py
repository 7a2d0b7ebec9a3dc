"""Several devices: the same training, shared out; here on two that are made of one processor."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from lib import config, paths
from lib.networks import devices
from lib.networks.backend import keras

ALL = config.Training(devices="all")

#: Trains the same networks on one device and on two, and prints what came of it.
CHILD = """
import json, shutil, sys
from pathlib import Path
import numpy as np
import pandas as pd
from lib.networks.backend import keras

if keras.backend.backend() == "tensorflow":
    import tensorflow

    processor = tensorflow.config.list_physical_devices("CPU")[0]
    two = [tensorflow.config.LogicalDeviceConfiguration()] * 2
    tensorflow.config.set_logical_device_configuration(processor, two)

from lib import config
from lib.networks import batching, building, devices, model_graph, training

folder = Path(sys.argv[1])
options = {"filters": [4] * 8, "dense_units": [8, 8]}
settings = config.load_config("configs/demo.yaml").baseline
settings = settings.model_copy(update={"options": options, "epochs": 3})
still = config.Augmentation(rotation_degrees=0, zoom=0.0, flip="none")
images = np.random.default_rng(1).integers(0, 256, (24, 256, 256, 3), dtype=np.uint8)
features = np.random.default_rng(2).normal(size=(30, 8)).astype(np.float32)


class Keeping(batching.Batches):
    "Batches that put a copy of the state aside as the last epoch begins."

    def start_epoch(self, epoch):
        super().start_epoch(epoch)
        if epoch == 2 and state.exists():
            shutil.copy(state, kept)


def cnn():
    training.set_seed(3)
    return building.build(settings, 256, 3, still, seed=1)


def random_network():
    training.set_seed(3)
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.RandomFlip(seed=1)(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Dropout(0.2, seed=2)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def fit(model, inputs, rows, kind=batching.Batches):
    targets = np.arange(len(inputs)) % 3
    weights = [1.0, 2.0, 0.5]
    train = kind(inputs, np.arange(rows), targets[:rows], weights, 6, seed=5)
    validation = batching.Batches(inputs, np.arange(rows, len(inputs)), targets[rows:], weights, 6)
    history = training.fit(
        model, train, validation, settings, classes=["a", "b", "c"], state=state, stage="test"
    )
    weights = np.concatenate([np.ravel(weight) for weight in model.get_weights()])
    return pd.DataFrame(history).drop(columns="seconds").to_dict("list"), weights.tolist()


made = {}
for which in ("one", "all"):
    state, kept = folder / f"{which}.state.npz", folder / f"{which}_kept.state.npz"
    build = config.Training(devices=which)
    model = devices.build(cnn, build)
    _, top = model_graph.split_before(model, "probabilities")
    for part in (model, top):
        with devices.devices_of(part) as number:
            made[f"{which}: number of {'model' if part is model else 'part'}"] = number
    made[which] = fit(model, images, 18)
    # the last batch has 1 row, in the validation 5 of 11
    made[f"{which}: odd"] = fit(top, features, 19)
state, kept = folder / "unbroken.state.npz", folder / "kept.state.npz"
model = devices.build(random_network, build)
made["unbroken"] = fit(model, images[:, :8, :8], 18, Keeping)
model = devices.build(random_network, build)
state = kept
made["gone on"] = fit(model, images[:, :8, :8], 18)
print("RESULT" + json.dumps(made))
"""


def python_of(backend):
    """Return a Python that has the backend; another one may be named for Keras's other backends."""
    if backend == "tensorflow":
        return sys.executable
    named = os.environ.get(f"SKIN_PYTHON_{backend.upper()}")
    if named:
        return named
    pytest.importorskip(
        backend, reason=f"{backend} is not installed, and SKIN_PYTHON_{backend.upper()} is not set"
    )
    return sys.executable


@pytest.fixture(scope="module", params=["tensorflow", "jax"])
def made(request, tmp_path_factory):
    done = subprocess.run(
        [python_of(request.param), "-c", CHILD, str(tmp_path_factory.mktemp("devices"))],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "KERAS_BACKEND": request.param,
            "JAX_CPU_ENABLE_ASYNC_DISPATCH": "0",  # or two cores may wait for each other for ever
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "PYTHONPATH": str(paths.ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.partition("RESULT")
    return json.loads(said[2]) | {"said": said[0]}


def test_a_model_and_any_part_of_it_are_on_all_devices_or_on_one(made):
    for which, number in (("one", 1), ("all", 2)):
        assert made[f"{which}: number of model"] == number
        assert made[f"{which}: number of part"] == number


def test_two_devices_train_what_one_trains(made):
    (one, one_weights), (two, two_weights) = made["one"], made["all"]
    assert len(set(one["loss"])) == 3, "it learns"
    for column in set(one) - {"stage"}:
        np.testing.assert_allclose(two[column], one[column], rtol=1e-4)
    np.testing.assert_allclose(two_weights, one_weights, rtol=1e-3, atol=1e-6)  # rounded: 5e-4


def test_rows_that_fill_up_a_batch_change_neither_weights_nor_scores(made):
    (one, one_weights), (two, two_weights) = made["one: odd"], made["all: odd"]
    np.testing.assert_allclose(two_weights, one_weights, rtol=1e-3, atol=1e-6)
    scores = [column for column in one if "loss" not in column and column != "stage"]
    assert len(scores) > 20
    for score in scores:
        np.testing.assert_allclose(two[score], one[score], rtol=1e-6)


def test_a_training_on_two_devices_that_was_broken_off_ends_as_an_unbroken_one(made):
    assert made["gone on"] == made["unbroken"]
    assert "kept.state.npz is from another" not in made["said"]
    losses = made["unbroken"][0]["loss"]
    assert made["said"].count(f"training: loss {losses[0]:.3f}") == 2, "told again, not trained"


def test_pytorch_on_several_devices_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="devices = all: the backend is torch; expected tensorf"):
        devices.build(lambda: pytest.fail("built"), ALL)
