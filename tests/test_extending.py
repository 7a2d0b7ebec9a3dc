"""docs/extending.md, followed to the letter in a copy of the repository, and run once."""

import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from conftest import without_make

from lib import paths
from lib.config import TRANSFER_ROWS

PAGE = (paths.ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"(?ms)^## (.+?)\n\n(.+?)\n*(?=^## |\Z)", PAGE))
FENCE = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
#: Settings that make the run as short as that of tests/tiny.yaml.
SHORTER = [
    (r"epochs: \d+", "epochs: 1"),
    (r"warmup_epochs: 1, schedule: cosine", "warmup_epochs: 0"),
    (r"filters: \[[\d, ]{19,}\]", "filters: [4, 4, 4, 4, 4, 4, 4, 4]"),
    (r"input_size: \d+", "input_size: 32"),
    (r"bootstrap_draws: \d+", "bootstrap_draws: 100"),
    (r"  - .*random_forest}\n", ""),
    (r"(?ms)^  - kind: network\n    name: alexnet\n.*?(?=^  - )", ""),
]


#: A run without the side experiments, and without the check, which test_check.py tests.
RUN = ("STUDIES=", "PREFLIGHT=", "CONFIG=mine")
#: A second backbone needs no code.
SECOND_BACKBONE = """
  - {kind: transfer, name: mobilenet, title: MobileNet, backbone: MobileNetV2, weights: none,
     input_size: 32, feature_layers: [block_6_project_BN, out_relu], dense_units: 8, dropout: 0.1,
     views: 1, batch_size: 16, class_balance: none, frozen: {epochs: 1, learning_rate: 0.001},
     fine_tune: {from_layer: block_13_expand, cached: false, epochs: 1, learning_rate: 0.0001}}
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return a copy of the repository in which every section of the page was followed."""
    clone = tmp_path_factory.mktemp("extending") / "clone"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    for name in files.stdout.splitlines():
        if (paths.ROOT / name).is_file() and not name.startswith(("models/", "reports/")):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(paths.ROOT / name, clone / name)
    shutil.copytree(paths.ROOT / "reports" / "studies", clone / "reports" / "studies")
    follow(PAGE.partition("\n## ")[0], clone)
    for section in SECTIONS.values():
        follow(section, clone)
    write_images(clone / "data" / "warts")
    config = clone / "configs" / "mine.yaml"
    text = config.read_text(encoding="utf-8")
    for old, new in SHORTER:
        assert re.search(old, text), old
        text = re.sub(old, new, text)
    assert "\nrelu_output_epochs" in text
    text = text.replace("\nrelu_output_epochs", f"\n{SECOND_BACKBONE}\nrelu_output_epochs")
    config.write_text(text, encoding="utf-8")
    return clone


def follow(section, clone):
    """Run the commands of a section, write its files, and make its changes."""
    places, end = [], 0
    for fence in FENCE.finditer(section):
        places += re.findall(
            r"(New file|[Ii]n|instead of|after|before|of) `([^`]+)`", section[end : fence.start()]
        )
        end = fence.end()
        kind, block = fence.groups()
        if kind == "sh":
            subprocess.run(["bash", "-ec", block], cwd=clone, check=True)
            continue
        word, name = places.pop(0)
        if word == "New file":
            assert not (clone / name).exists()
            (clone / name).write_text(block, encoding="utf-8")
            continue
        if word in ("In", "in"):
            file = clone / name
            word, name = places.pop(0)
        change(file, word, name, block)
    assert not places


def change(file, word, anchor, block):
    """Insert a block before, after or instead of the first line that contains the anchor."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    found = [i for i, line in enumerate(lines) if anchor in line]
    assert found, f"{file.name} has no {anchor!r}"
    start = found[0] + (word == "after")
    stop = start + (word in ("instead of", "of"))
    file.write_text("".join([*lines[:start], block, *lines[stop:]]), encoding="utf-8")


def write_images(folder):
    """Write 60 images of 60 lesions, the second a copy of the first turned round and darkened."""
    random = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    rows, first = [], None
    for i in range(60):
        dx = "wart" if i % 2 and i > 1 else "corn"
        noise = cv2.resize(random.normal(size=(40, 50, 3)), (150, 120))
        image = np.clip(150 + 40 * noise + 20 * (dx == "wart"), 0, 255).astype(np.uint8)
        first = image if i == 0 else first
        image = (0.9 * first[::-1, ::-1]).astype(np.uint8) if i == 1 else image
        cv2.imwrite(str(folder / "pictures" / f"I{i:02d}.png"), image)
        rows.append({"image_id": f"I{i:02d}", "lesion_id": f"L{i:02d}", "dx": dx})
    pd.DataFrame(rows).to_csv(folder / "HAM10000_metadata.csv", index=False)


@pytest.fixture(scope="module")
def run(clone):
    """Run the extended study; return its folder of runs and its folder of reports."""
    done = command(clone, "make", f"PYTHON={sys.executable}", "reproduce", *RUN)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return clone / "runs" / "mine", clone / "reports" / "mine"


def command(clone, *arguments):
    environment = without_make() | {"PYTHONPATH": str(clone), "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment.pop("SKIN_OUTPUT", None)
    return subprocess.run(
        arguments, cwd=clone, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("title", SECTIONS)
def test_each_change_takes_at_most_15_lines(title):
    lines = [line for line in SECTIONS[title].splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith("```")]) <= 15


def test_the_page_covers_every_kind_of_change():
    kinds = ["model", "preprocessing step", "score", "notebook", "class", "data set"]
    assert list(SECTIONS) == [f"A {kind}" for kind in kinds]


def test_a_new_model_is_trained_scored_and_predicts(clone, run):
    metrics = json.loads((run[0] / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["models"]["small_cnn"]["title"] == "Small CNN"
    image = clone / "data" / "warts" / "pictures" / "I05.png"
    options = ["--config", "mine", "--run", "--model", "small_cnn", "--json"]
    done = command(clone, sys.executable, "-m", "tools.predict", *options, str(image))
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["diagnoses"]) == {"wart", "corn"}


def test_two_backbones_stand_side_by_side(clone, run):
    metrics = json.loads((run[0] / "metrics.json").read_text(encoding="utf-8"))
    rows = [f"{name}_{row}" for name in ("vgg16", "mobilenet") for row in TRANSFER_ROWS]
    assert list(metrics["models"])[-6:] == rows
    assert metrics["models"]["mobilenet_frozen"]["title"] == "MobileNet, frozen"
    assert metrics["primary"] == "vgg16_fine_tuned"
    assert list(metrics["cross_validation"]["models"]) == ["vgg16_linear", "mobilenet_linear"]
    image = clone / "data" / "warts" / "pictures" / "I05.png"
    options = ["--config", "mine", "--run", "--model", "mobilenet_fine_tuned", "--json"]
    done = command(clone, sys.executable, "-m", "tools.predict", *options, str(image))
    assert done.returncode == 0, done.stderr


def test_a_new_step_is_applied_and_shown_in_notebook_02(run):
    note = json.loads((run[0] / "images.json").read_text(encoding="utf-8"))
    assert note["preprocessing"]["sharpen"] is True
    assert "sharpening" in text_of(run[1] / "02_preprocessing.html")


def test_a_new_score_is_in_every_table(run):
    metrics = json.loads((run[0] / "metrics.json").read_text(encoding="utf-8"))
    for model in metrics["models"].values():
        assert all("matthews" in scores for scores in model["rules"].values())
    for page in ("05_evaluation", "index"):
        assert "Matthews correlation" in text_of(run[1] / f"{page}.html")


def test_a_new_notebook_is_executed_and_listed(run):
    assert "The rarest class of the test images is" in text_of(run[1] / "10_my_question.html")
    assert "10 · My question" in text_of(run[1] / "index.html")


def test_other_classes_and_images_go_through_to_the_index(run):
    """PNG files of two invented classes, no masks, no age; one lesion under two names."""
    index = pd.read_csv(run[0] / "index.csv")
    assert index["label"].value_counts().to_dict() == {"corn": 31, "wart": 29}
    assert set(index.loc[index["lesion_id"].isin(["L00", "L01"]), "group_id"]) == {"L00"}
    pairs = pd.read_csv(run[0] / "duplicates.csv")
    assert pairs[["lesion_id_1", "lesion_id_2"]].iloc[0].tolist() == ["L00", "L01"]


def test_an_extended_run_is_published_beside_those_that_lack_its_score(clone, run):
    published = paths.ROOT / "reports" / "demo" / "published"
    shutil.copytree(published, clone / "reports" / "demo" / "published")
    done = command(clone, "make", f"PYTHON={sys.executable}", "publish", *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    results = (clone / "docs" / "results.md").read_text(encoding="utf-8")
    demo = next(part for part in results.split("### ") if "Run `demo`" in part)
    assert "Matthews correlation" in demo and "| – |" in demo
    assert "Small CNN" in results


def text_of(page):
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").get_text()
