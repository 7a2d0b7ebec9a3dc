"""Keras's other backends: JAX and PyTorch train what TensorFlow trains, and are gone on with.

They are tried where they are installed, or with the Python that SKIN_PYTHON_JAX or
SKIN_PYTHON_TORCH names: an environment with the lock's packages and jax or torch, without
TensorFlow.
"""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from lib import paths

#: Trains small networks from given weights, nothing else being random; then one with random layers.
CHILD = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
import pandas as pd
from lib import config
from lib.networks import batching, building, common_layers, devices, feature_cache, inference
from lib.networks import model_graph, saving, training, vgg16
from lib.networks.backend import keras

folder, task = Path(sys.argv[1]), sys.argv[2]
own = folder / keras.backend.backend()
own.mkdir(exist_ok=True)
demo = config.load_config("configs/demo.yaml")
still = config.Augmentation(rotation_degrees=0, zoom=0.0, flip="none")
images = np.random.default_rng(1).integers(0, 256, (24, 256, 256, 3), dtype=np.uint8)
targets = np.arange(24) % 3
rows = {"train": np.arange(18), "validation": np.arange(18, 24)}
stage = config.Stage(epochs=3, learning_rate=0.001)


class Deadly(batching.Batches):
    "Batches that kill the process in the third epoch."

    def __getitem__(self, batch):
        if self.epoch == 2 and batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(batch)


def fit(model, inputs, kept, settings=stage, kind=batching.Batches, **options):
    loss_weights = [1.0, 2.0, 0.5]
    batches = [
        each(inputs[part], np.arange(len(rows[part])), targets[rows[part]], loss_weights, 6, seed)
        for each, part, seed in ((kind, "train", 5), (batching.Batches, "validation", None))
    ]
    state = own / f"{kept}.state.npz"
    history = training.fit(
        model, *batches, settings, classes=["a", "b", "c"], state=state, stage=kept, **options
    )
    return pd.DataFrame(history).drop(columns="seconds").to_dict("list")


def plain(model, name):
    "Set the weights that TensorFlow's process has written, or write them."
    file = folder / f"{name}.npz"
    if keras.backend.backend() == "tensorflow":
        np.savez(file, *model.get_weights())
    with np.load(file) as given:
        model.set_weights([given[f"arr_{i}"] for i in range(len(given.files))])
    return model


def baseline():
    training.set_seed(3)
    sizes = {"filters": [4] * 8, "dense_units": [8, 8]}
    return building.build(demo.baseline, 256, 3, still, seed=1, **sizes)


def random_network():
    training.set_seed(3)
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    moving = config.Augmentation(rotation_degrees=0, zoom=0.1, flip="horizontal")
    for layer in common_layers.augmentation_layers(moving, seed=1):
        x = layer(x)
    x = keras.layers.Dropout(0.2, seed=9)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def pixels():
    return {part: images[rows[part], :16, :16] for part in rows}


cosine = config.Stage(epochs=4, learning_rate=0.01, schedule="cosine", warmup_epochs=1)
if task == "die":
    fit(random_network(), pixels(), "broken", cosine, Deadly)

made = {}
if task == "compare":
    model = plain(baseline(), "baseline")
    made["baseline"] = fit(model, {part: images[rows[part]] for part in rows}, "baseline")
    made["baseline probabilities"] = inference.predict(model, images, views=2).tolist()

    training.set_seed(3)
    settings = demo.model("vgg16").model_copy(
        update={"input_size": 32, "dense_units": 8, "dropout": 0.0,
                "feature_layers": ["block4_pool", "block5_pool"]}
    )
    model = plain(vgg16.vgg16_transfer(256, 3, settings, still, seed=1), "vgg16")
    trunk, head = model_graph.split_before(model, "features")
    cached = {
        part: feature_cache.cache_features(
            trunk, images, rows[part], own / f"head_{part}", views=1, batch_size=8
        )
        for part in rows
    }
    made["frozen features"] = [float(np.abs(each).mean()) for each in cached["train"]]
    made["frozen"] = fit(head, cached, "frozen")
    model_graph.train_from(model, "block5_conv3")
    trunk, top = model_graph.split_before(model, "block5_conv3")
    cached = {
        part: feature_cache.cache_features(
            trunk, images, rows[part], own / f"top_{part}", views=1, batch_size=8
        )
        for part in rows
    }
    made["inputs of the fine-tuned part"] = len(top.inputs)
    recipe = {"weight_decay": 0.02, "clip_norm": 1.0, "average": 0.9, "keep": "last"}
    recipe = stage.model_copy(update=recipe | {"schedule": "cosine", "warmup_epochs": 1})
    made["fine-tuned"] = fit(
        top, cached, "fine-tuned", recipe, loss_prior=[0.2, 0.3, 0.5], rates={"dense": 3.0}
    )
    made["vgg16 probabilities"] = inference.predict(model, images).tolist()
    history = __import__("pandas").DataFrame(made["baseline"]).assign(seconds=1.0)
    saving.save(model, own, history)
    again = saving.load_model(own / "model.keras")
    made["read back"] = bool(model_graph.weights_digest(again) == model_graph.weights_digest(model))
    if keras.backend.backend() != "tensorflow":
        made["tensorflow is there"] = "tensorflow" in sys.modules
    made["unbroken"] = fit(random_network(), pixels(), "unbroken", cosine)
    made["gone on"] = fit(random_network(), pixels(), "broken", cosine)
    half = devices.build(random_network, config.Training(precision="bfloat16"))
    made["bfloat16"] = fit(half, pixels(), "bfloat16")
    made["auto"] = devices.computes_bfloat16()
    try:
        devices.build(random_network, config.Training(devices="all"))
    except ValueError as error:
        made["all devices"] = str(error)
print("RESULT" + json.dumps(made))
"""


def python_of(backend):
    """Return a Python that has the backend, or skip."""
    variable = f"SKIN_PYTHON_{backend.upper()}"
    if os.environ.get(variable):
        return os.environ[variable]
    pytest.importorskip(backend, reason=f"{backend} is not installed, and {variable} is not set")
    return sys.executable


def child(python, backend, folder, task):
    return subprocess.run(
        [python, "-c", CHILD, str(folder), task],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "KERAS_BACKEND": backend,
            "PYTHONPATH": str(paths.ROOT),
            "SKIN_OUTPUT": str(folder),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        },
    )


def result(done):
    assert done.returncode == 0, done.stderr[-3000:]
    said, _, made = done.stdout.partition("RESULT")
    return json.loads(made) | {"said": said}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("backends")


@pytest.fixture(scope="module", params=["jax", "torch"])
def other(request):
    return request.param, python_of(request.param)


@pytest.fixture(scope="module")
def expected(other, folder):
    """What TensorFlow makes of the same weights; asked for only where another backend is there."""
    return result(child(sys.executable, "tensorflow", folder, "compare"))


@pytest.fixture(scope="module")
def made(other, folder, expected):
    backend, python = other
    died = child(python, backend, folder, "die")
    assert died.returncode == -signal.SIGKILL, died.stderr[-3000:]
    return result(child(python, backend, folder, "compare")) | {"died": died.stdout}


@pytest.mark.parametrize("network", ["baseline", "frozen", "fine-tuned"])
def test_the_losses_agree_with_tensorflow_s(made, expected, network):
    found, wanted = made[network], expected[network]
    assert len(set(wanted["loss"])) == 3, "it learns"
    for loss in ("loss", "val_loss"):
        assert found[loss] == pytest.approx(wanted[loss], rel=1e-4)
    for score in set(wanted) - {"loss", "val_loss", "stage"}:
        np.testing.assert_allclose(found[score], wanted[score], rtol=1e-6)


@pytest.mark.parametrize("network", ["baseline", "vgg16"])
def test_the_probabilities_agree_with_tensorflow_s(made, expected, network):
    name = f"{network} probabilities"
    # weights end rounded to half precision: a last bit that differs may then differ by more
    np.testing.assert_allclose(made[name], expected[name], atol=5e-5)


def test_the_features_of_frozen_layers_agree_with_tensorflow_s(made, expected):
    assert len(expected["frozen features"]) == 2
    assert made["frozen features"] == pytest.approx(expected["frozen features"], rel=1e-4)
    assert made["inputs of the fine-tuned part"] == 2


def test_a_training_killed_is_gone_on_with(made):
    assert len(made["died"].splitlines()) == 2, "two epochs had ended"
    assert "broken.state.npz is from another" not in made["said"]
    for line in made["died"].splitlines():
        assert made["said"].count(line) == 2, "told by the unbroken one and the one gone on with"
    assert made["gone on"]["loss"] == made["unbroken"]["loss"]
    assert made["gone on"]["val_loss"] == made["unbroken"]["val_loss"]


def test_a_model_is_saved_and_read_back_without_tensorflow(made):
    assert made["read back"]
    assert made["tensorflow is there"] is False


def test_networks_train_in_bfloat16(made):
    assert np.isfinite(made["bfloat16"]["loss"]).all()
    assert made["auto"] in (True, False)


def test_pytorch_takes_no_second_device(made, other):
    if other[0] == "torch":
        assert made["all devices"].startswith("training.devices = all: the backend is torch")
    else:
        assert "all devices" not in made
