"""What the tests share: tiny data, a tiny run, and the real images where they are there."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import config, paths, synthetic

TINY = paths.ROOT / "tests" / "tiny.yaml"


@pytest.fixture(autouse=True)
def own_output(tmp_path, monkeypatch):
    """Nothing a test writes goes among the reader's own runs."""
    monkeypatch.setenv("SKIN_OUTPUT", str(tmp_path / "output"))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """40 synthetic lesions, in HAM10000's layout."""
    return synthetic.generate(tmp_path_factory.mktemp("data") / "tiny", lesions=40, seed=3)


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory, data_folder):
    """The path of a configuration that runs through every step in a minute or two."""
    file = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    text = TINY.read_text(encoding="utf-8").replace("{folder}", data_folder.as_posix())
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture
def run(tiny_config):
    return config.load_config(tiny_config)


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
    """A folder of real HAM10000 images, or the test says that it was skipped."""
    folder = Path(os.environ.get("HAM10000_DIR") or paths.ROOT.parent / "shared" / "ham10000")
    if not (folder / "HAM10000_metadata.csv").is_file():
        pytest.skip("no real images: neither HAM10000_DIR nor ../shared/ham10000 has them")
    return folder


def without_make():
    """Return the environment without what a make that runs these tests hands down."""
    handed_down = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "CONFIG", "TIMEOUT")
    return {key: value for key, value in os.environ.items() if key not in handed_down}


@pytest.fixture(scope="session")
def make():
    """Run make in the repository with this Python; return the finished process."""

    def run_make(*arguments, output, **options):
        environment = without_make() | {"SKIN_OUTPUT": str(output)}
        command = ["make", f"PYTHON={sys.executable}", *map(str, arguments)]
        return subprocess.run(
            command, cwd=paths.ROOT, env=environment, capture_output=True, text=True, **options
        )

    return run_make
