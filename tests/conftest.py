"""Shared fixtures: tiny synthetic data, a tiny run, and the real images if they are available."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import config, paths
from lib.data import datasets
from lib.preprocessing import image_array
from tools import synthetic

TINY = paths.ROOT / "tests" / "tiny.yaml"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each file to one worker, and all notebooks to one, for they build on each other."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return "notebooks" if file.endswith(".ipynb") else file

    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    """Start with what takes longest, so that no process waits for the other in the end."""
    first = (".ipynb", "test_end_to_end.py", "test_extending.py", "test_training.py")
    items.sort(key=lambda item: not item.path.name.endswith(first))


@pytest.fixture(autouse=True)
def own_output(tmp_path, monkeypatch):
    """Keep what a test writes out of the reader's own runs."""
    monkeypatch.setenv("SKIN_OUTPUT", str(tmp_path / "output"))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """Return a folder of 40 synthetic lesions in HAM10000's layout."""
    return synthetic.generate(tmp_path_factory.mktemp("data") / "tiny", lesions=40, seed=3)


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory, data_folder):
    """Return the path of a configuration that runs every step in a few minutes."""
    file = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    text = TINY.read_text(encoding="utf-8").replace("{folder}", data_folder.as_posix())
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture
def run(tiny_config):
    return config.load_config(tiny_config)


def change_layers(network, parts, seed):
    """Change the weights of named layers as training would; values are those of half precision."""
    random = np.random.default_rng(seed)
    for layer in network.layers:
        if layer.name in parts:
            values = [v + random.normal(0, 0.02, v.shape) for v in layer.get_weights()]
            layer.set_weights([v.astype(np.float16).astype(np.float32) for v in values])


def write_run(run, data_folder):
    """Write the files of a finished run: index, images and three networks with changed weights."""
    from lib.networks import saving, vgg16_weights
    from lib.networks.backend import keras

    metadata = datasets.read_metadata(data_folder)
    files = datasets.find_images(data_folder, metadata["image_id"])
    index = datasets.build_index(metadata, files, metadata.set_index("image_id")["lesion_id"], run)
    datasets.write_index(index, run)
    image_array.write_images(index, data_folder, run)
    folder = paths.run_folder(run.name)
    history = pd.DataFrame({"epoch": [1], "stage": ["a"], "kept": [True], "seconds": [1.0]})
    keras.utils.set_random_seed(1)
    cnn = exact_network(run, "baseline_cnn")
    change_layers(cnn, [layer.name for layer in cnn.layers], seed=1)
    balance = run.baseline.class_balance
    saving.save(cnn, folder / "baseline_cnn", history, class_balance=balance)
    calibration = {"scale": 0.8, "bias": {"bcc": -1.0, "mel": -0.5, "nv": 0.7}}
    saving.add_to_manifest(folder / "baseline_cnn", calibration=calibration)
    vgg16, settings, out = exact_network(run, "vgg16"), run.model("vgg16"), folder / "vgg16"
    change_layers(vgg16, vgg16_weights.HEAD, seed=2)
    notes = {"class_balance": settings.class_balance, "test_time_views": settings.test_time_views}
    saving.save(vgg16, out, history, "frozen", **notes)
    change_layers(
        vgg16, [*vgg16_weights.HEAD, "block5_conv1", "block5_conv2", "block5_conv3"], seed=3
    )
    saving.save(vgg16, out, history, **notes)
    for name in ("manifest", "manifest_frozen"):
        saving.add_to_manifest(out, name, calibration=calibration)


def exact_network(run, name):
    """Build a network of a configuration in float32, with the weights of its backbone."""
    from tools import published_networks

    return published_networks.build_exact(
        run.model(name), run.preprocessing.image_size, len(run.classes)
    )


def with_model(run, name, **changes):
    """Return a configuration with other settings of one model."""
    items = [item.model_copy(update=changes) if item.name == name else item for item in run.models]
    return run.model_copy(update={"models": items})


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_config, data_folder):
    """Return the folders of a finished and published run; tests must not write to them."""
    from tools import publish_models, published_networks

    output, published = tmp_path_factory.mktemp("finished"), tmp_path_factory.mktemp("models")
    run = config.load_config(tiny_config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIN_OUTPUT", str(output))
        patch.setattr(published_networks, "MODELS", published)
        write_run(run, data_folder)
        assert publish_models.publish(run) == published / "tiny"
    return SimpleNamespace(output=output, run=output / "runs" / "tiny", models=published)


@pytest.fixture
def write_folder(tmp_path):
    """Write a small folder in HAM10000's layout from rows of (image_id, lesion_id, dx)."""

    def write(rows, name="set"):
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        table = pd.DataFrame(rows, columns=["image_id", "lesion_id", "dx"])
        table = table.assign(dx_type="histo", age=50.0, sex="female", localization="back")
        table.to_csv(folder / "HAM10000_metadata.csv", index=False)
        for i, image_id in enumerate(table["image_id"].drop_duplicates()):
            image = np.full((36, 48, 3), i % 200, np.uint8)
            cv2.imwrite(str(folder / "images" / f"{image_id}.jpg"), image)
        return folder

    return write


@pytest.fixture(scope="session")
def ham10000():
    """Return a folder of real HAM10000 images; skip the test if there is none."""
    folder = Path(os.environ.get("HAM10000_DIR") or paths.ROOT.parent / "shared" / "ham10000")
    if not (folder / "HAM10000_metadata.csv").is_file():
        pytest.skip("no real images in HAM10000_DIR or ../shared/ham10000")
    return folder


def without_make():
    """Return the environment without the variables that an outer make passes on."""
    inherited = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "CONFIG", "TIMEOUT")
    return {key: value for key, value in os.environ.items() if key not in inherited}


@pytest.fixture(scope="session")
def make():
    """Return a function that runs make in the repository with this Python."""

    def run_make(*arguments, output, **options):
        environment = without_make() | {"SKIN_OUTPUT": str(output)}
        command = ["make", f"PYTHON={sys.executable}", *map(str, arguments)]
        return subprocess.run(
            command, cwd=paths.ROOT, env=environment, capture_output=True, text=True, **options
        )

    return run_make
