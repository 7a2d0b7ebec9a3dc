"""The whole chain on a tiny configuration: make, papermill and reports.

One run is killed while a network trains, then resumed to its end. The tests read its files, execute
its notebooks a second time without interruption, and compare.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from conftest import without_make
from test_backends import python_of

from lib import models, paths, tables
from lib.config import load_config
from lib.evaluation import variance as spread
from lib.evaluation.scores import SCORES
from lib.features import handcrafted
from lib.networks import array_files
from studies import variance
from tools import train

#: A run without the side experiments, which nbval executes.
RUN = ("reproduce", "STUDIES=")
#: The notebooks of a run; 08 has a target of its own, `make external-test`.
NAMES = [file.stem for file in sorted((paths.ROOT / "notebooks").glob("0[1-7]_*.ipynb"))]


@pytest.fixture(scope="session")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="session")
def killed(tiny_config, output):
    """Kill `make reproduce` while notebook 03 trains; return the number of epochs it saved."""
    process = subprocess.Popen(
        ["make", f"PYTHON={sys.executable}", *RUN, f"CONFIG={tiny_config}"],
        cwd=paths.ROOT,
        env=without_make() | {"SKIN_OUTPUT": str(output)},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    run = output / "runs" / "tiny"
    state = run / "baseline_cnn" / "from_scratch.state.npz"
    deadline = time.monotonic() + 1200  # a minute where nothing else runs
    while not state.exists() and time.monotonic() < deadline:
        assert process.poll() is None, "make ended before notebook 03 trained"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert state.exists(), "notebook 03 did not start to train"
    assert (run / "notebooks" / "02_preprocessing.ipynb").exists()
    assert not (run / "notebooks" / "03_baseline_cnn.ipynb").exists()
    return array_files.read_arrays(state)[1]["rows"]


@pytest.fixture(scope="session")
def reproduced(make, tiny_config, output, killed):
    """Resume the killed run; return its folder of runs and its folder of reports."""
    assert planned(make, tiny_config, output)[0] == "03_baseline_cnn"
    done = make(*RUN, f"CONFIG={tiny_config}", output=output)
    assert done.returncode == 0, done.stderr
    return output / "runs" / "tiny", output / "reports" / "tiny"


def planned(make, tiny_config, output):
    """Return the notebooks that make would execute now."""
    done = make("--dry-run", *RUN, f"CONFIG={tiny_config}", output=output)
    return re.findall(r"reports execute notebooks/(\w+)\.ipynb", done.stdout)


# ------------------------------------------------------------------------------------ a whole run


def test_every_report_and_the_index_are_written(reproduced):
    _, reports = reproduced
    pages = [*(f"{name}.html" for name in NAMES), "index.html"]
    for page in pages:
        soup = BeautifulSoup((reports / page).read_text(encoding="utf-8"), "html.parser")
        assert soup.html["lang"] == "en"
        assert "Synthetic images" in soup.get_text()
        assert all(image.get("alt") for image in soup.find_all("img"))


def test_every_report_names_the_split(reproduced):
    run, reports = reproduced
    split = json.loads((run / "index.json").read_text(encoding="utf-8"))["split_sha256"]
    for page in [*(f"{name}.html" for name in NAMES), "index.html"]:
        text = BeautifulSoup((reports / page).read_text(encoding="utf-8"), "html.parser").get_text()
        assert split in text, page


def test_every_link_between_the_reports_is_alive(make, tiny_config, output, reproduced):
    _, reports = reproduced
    done = make("--dry-run", "reproduce", f"CONFIG={tiny_config}", output=output)
    studies = re.findall(r"reports render .* --output \S+/reports/(studies/\w+\.html)", done.stdout)
    assert len(studies) == len(list((paths.ROOT / "notebooks" / "studies").glob("*.ipynb")))
    for page in reports.glob("*.html"):
        soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        for link in soup.find_all("a", href=True):
            target, _, anchor = link["href"].partition("#")
            if re.match(r"https?:", target):
                continue
            alive = (
                not target or target.removeprefix("../") in studies or (reports / target).exists()
            )
            assert alive, f"{page.name}: {target}"
            if anchor and not target:
                assert soup.find(id=anchor), f"{page.name}: #{anchor}"


def test_the_contracts_are_written(reproduced):
    run, _ = reproduced
    index = pd.read_csv(run / "index.csv")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert sum(metrics["images"].values()) == len(index)
    networks = ("baseline_cnn", "alexnet", "vgg16")
    for folder in ("color_texture_svm", "color_texture_forest", "no_mask_svm", *networks):
        for name in ("predictions.csv", "manifest.json"):
            assert (run / folder / name).is_file()
    for folder in networks:
        for name in ("model.keras", "history.csv"):
            assert (run / folder / name).is_file()
    for name in ("localisation.json", "reliability.json", "subgroups.csv", "survey_scores.json"):
        assert (run / name).is_file()
    reliability = json.loads((run / "reliability.json").read_text(encoding="utf-8"))
    assert 0 <= reliability["lesion_box"]["value"] <= 1, "what the lesion's box alone predicts"
    for folder in ("baseline_cnn", "vgg16"):
        probes = pd.read_csv(run / folder / "probes.csv")
        assert {"held_out", "noise", "lesion covered"} <= set(probes["kind"])
        assert (run / folder / "space.npz").is_file()
    assert list(metrics["models"]) == list(models.titles(load_config("tests/tiny.yaml")))
    crossed = pd.read_csv(run / "vgg16" / "cross_validation.csv")
    assert sorted(crossed["image_id"]) == sorted(index["image_id"])
    assert set(metrics["cross_validation"]["models"]) == {"vgg16_linear"}


def test_fine_tuning_without_cached_maps_learns_from_images(reproduced):
    """Only the pooled features of the head are cached; the demonstration caches maps as well."""
    run = reproduced[0] / "vgg16"
    settings = load_config("tests/tiny.yaml").model("vgg16")
    assert not settings.fine_tune.cached
    assert [file.name for file in run.glob("features_train_?.npy")] == ["features_train_0.npy"]
    features = np.load(run / "features_train_0.npy", mmap_mode="r")
    assert features.shape[1:] == (256 + 512 + 512,)
    history = pd.read_csv(run / "history.csv")
    stages = history["stage"].value_counts()
    assert stages.to_dict() == {"frozen": 2, "fine-tuned": settings.fine_tune.epochs}
    digests = [
        json.loads((run / name).read_text(encoding="utf-8"))["weights_sha256"]
        for name in ("manifest.json", "manifest_frozen.json")
    ]
    assert len(set(digests)) == 2, "fine-tuning changed the network"


def test_nothing_is_left_half_written(reproduced):
    for folder in reproduced:
        leftovers = [p for p in folder.rglob("*") if "partial" in p.name or "failed" in p.name]
        assert leftovers == []


def test_a_killed_training_resumes_from_its_last_epoch(reproduced, killed):
    seconds = pd.read_csv(reproduced[0] / "baseline_cnn" / "history.csv")["seconds"]
    epochs = load_config("tests/tiny.yaml").baseline.epochs
    assert 1 <= len(killed) < epochs, "killed before or after the training"
    assert len(seconds) == epochs
    assert seconds[: len(killed)].tolist() == [row["seconds"] for row in killed]


def test_an_uninterrupted_execution_prints_the_same_and_trains_the_same_weights(
    reproduced, tmp_path
):
    """Strict nbval on the executed copies of the resumed run: no output is ignored."""
    run, again = reproduced[0], tmp_path / "output"
    for name in NAMES:
        notebook = nbformat.read(run / "notebooks" / f"{name}.ipynb", as_version=4)
        for cell in notebook.cells:
            tags = cell.metadata.get("tags", [])
            cell.metadata["tags"] = [tag for tag in tags if not tag.startswith("nbval")]
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env"]
    sanitize = ["--nbval-sanitize-with", str(paths.ROOT / "tests" / "nbval_sanitize.cfg")]
    isolated = ["-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull]
    environment = os.environ | {"SKIN_OUTPUT": str(again), "PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run(
        [*command, *sanitize, *isolated, "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert re.search(r"\d{2,} passed", done.stdout)
    resumed, uninterrupted = (
        [
            json.loads((folder / model / "manifest.json").read_text(encoding="utf-8"))
            for model in ("baseline_cnn", "alexnet", "vgg16")
        ]
        for folder in (run, again / "runs" / "tiny")
    )
    digests = [manifest["weights_sha256"] for manifest in resumed]
    assert digests == [manifest["weights_sha256"] for manifest in uninterrupted]
    assert len(set(digests)) == 3


# ------------------------------------------------------------------------------------------ make


def test_a_second_make_does_nothing_in_under_two_seconds(make, tiny_config, output, reproduced):
    started = time.monotonic()
    done = make(*RUN, f"CONFIG={tiny_config}", output=output)
    assert time.monotonic() - started < 2
    assert done.returncode == 0
    assert done.stdout.split() == [str(output / "reports" / "tiny" / "index.html")]


def test_touching_a_notebook_runs_it_and_what_follows(make, tiny_config, output, reproduced):
    assert planned(make, tiny_config, output) == []
    what_if = ["--what-if", "notebooks/05_evaluation.ipynb"]
    done = make("--dry-run", *what_if, *RUN, f"CONFIG={tiny_config}", output=output)
    again = re.findall(r"reports execute notebooks/(\w+)\.ipynb", done.stdout)
    assert again == ["05_evaluation", "06_heatmaps", "07_reliability"]


def test_touching_the_report_s_template_renders_without_executing(
    make, tiny_config, output, reproduced
):
    what_if = ["--what-if", "tools/templates/index.html.j2"]
    done = make("--dry-run", *what_if, *RUN, f"CONFIG={tiny_config}", output=output)
    assert "reports execute" not in done.stdout
    assert done.stdout.count("reports render") == len(NAMES)


def test_help_is_the_default_and_names_every_target(make, output):
    done = make(output=output)
    for target in ("env", "reproduce", "data", "studies", "notebooks", "predict", "test", "lint"):
        assert re.search(rf"^  make {target}\s+\w", done.stdout, flags=re.MULTILINE)


def test_an_unknown_configuration_is_one_clear_line(make, output):
    done = make("reproduce", "CONFIG=nowhere", output=output)
    assert done.returncode != 0
    assert "error: configs/nowhere.yaml: no such configuration; available: " in done.stderr
    assert not list(output.glob("runs/nowhere*"))


def test_an_unsupported_python_is_one_clear_line(tmp_path):
    """A PATH on which python3 is too old and no other one is found."""
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit\nexit 1\n')
    old.chmod(0o755)
    for tool in ("sh", "echo"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = subprocess.run(
        ["sh", "tools/make_env.sh", str(tmp_path / "venv")],
        cwd=paths.ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "error: Python 3.11, 3.12 or 3.13 is needed; found Python 3.9.1\n"
    assert not (tmp_path / "venv").exists()


# ------------------------------------------------------------------------------------- other data


@pytest.fixture
def changed(tiny_config, tmp_path):
    """Write the tiny configuration with one text replaced."""

    def write(old, new):
        text = tiny_config.read_text(encoding="utf-8")
        assert old in text
        file = tmp_path / "changed.yaml"
        file.write_text(text.replace(old, new), encoding="utf-8")
        return file

    return write


def test_an_image_that_is_not_an_image_is_one_clear_error(make, changed, data_folder, tmp_path):
    """How a run fails; test_config.py and test_datasets.py have the messages of other bad input."""
    copy, output = tmp_path / "broken", tmp_path / "output"
    shutil.copytree(data_folder, copy)
    (copy / "images" / "SYN_0000005.jpg").write_bytes(b"not an image")
    config = changed(data_folder.as_posix(), copy.as_posix())
    done = make(*RUN, "PREFLIGHT=", f"CONFIG={config}", output=output)
    assert done.returncode != 0
    message = "): 1, the first: images/SYN_0000005.jpg, not an image in JPEG or PNG format, 12"
    assert "images cannot be used, more than data.max_dropped = 0.01 allows" in done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    run = output / "runs" / config.stem
    assert not (run / "notebooks" / "01_data_survey.ipynb").exists()
    assert (run / "notebooks" / "01_data_survey.failed.ipynb").exists()
    assert not (run / "index.csv").exists()
    assert not (output / "reports" / config.stem / "index.html").exists()


# --------------------------------------------------------------------------- without notebooks

#: Runs `tools.train` where all that a server does not need cannot be imported.
SERVER = """
import sys

sys.modules |= dict.fromkeys(sys.argv[1].split())  # importing one of them is an error
from tools import train

sys.exit(train.main(sys.argv[2:]))
"""
MISSING = (
    "pandas pandera matplotlib seaborn IPython ipykernel jupyterlab papermill nbformat cv2 numba "
    "nbconvert sklearn skimage PIL crepes jinja2 joblib onnx pooch remotezip threadpoolctl"
)


def train_on_server(output, *arguments, python=sys.executable, backend="tensorflow"):
    missing = MISSING if backend == "tensorflow" else f"{MISSING} tensorflow"
    done = subprocess.run(
        [python, "-c", SERVER, missing, *arguments],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        env=os.environ
        | {"SKIN_OUTPUT": str(output), "PYTHONPATH": str(paths.ROOT), "KERAS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def states_of(run):
    """Return the files of trainings, with their contents, by name."""
    files = sorted(run.rglob("*.state.npz"))
    return {file.relative_to(run).as_posix(): file.read_bytes() for file in files}


@pytest.fixture(scope="session")
def server(reproduced, tmp_path_factory):
    """A copy of the finished run, as it is brought to a server."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copytree(reproduced[0], folder / "runs" / "tiny")
    return folder


def test_what_the_notebooks_have_trained_is_trained_without_them_too(server, tiny_config):
    """With the same weights, so either finds what the other has finished."""
    run = server / "runs" / "tiny"
    note = run / "vgg16" / "fine_tuned.state.json"
    assert json.loads(note.read_text(encoding="utf-8"))["machine"]
    tables.write_json({"finished": "before", "machine": "another"}, note)
    before = states_of(run)
    said = train_on_server(server, str(tiny_config))
    assert "another training" not in said
    assert states_of(run) == before
    assert json.loads(note.read_text(encoding="utf-8"))["machine"] == "another"
    again = ["alexnet/from_scratch", "vgg16/frozen_logit_adjusted", "vgg16/fine_tuned"]
    again = [f"{name}.state.npz" for name in again]
    for name in again:
        (run / name).unlink()
    train_on_server(server, str(tiny_config), "--model", "vgg16", "--model", "alexnet")
    after = states_of(run)
    assert after.keys() == before.keys()
    for name in again:
        (run / "compared.npz").write_bytes(before[name])
        expected, _ = array_files.read_arrays(run / "compared.npz")
        found, _ = array_files.read_arrays(run / name)
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key], name)


def outputs_of(folder):
    return pd.read_csv(folder / "vgg16" / "outputs.csv", index_col="image_id")


def test_a_network_of_a_fold_has_not_seen_it(server, tiny_config):
    run = server / "runs" / "tiny"
    train_on_server(server, str(tiny_config), "--model", "vgg16", "--fold", "1")
    index = pd.read_csv(run / "index.csv", index_col="image_id")
    outputs = outputs_of(run / "folds" / "1")
    assert sorted(outputs.index) == sorted(index.index[index["fold"] == 1])
    np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-5)
    note = json.loads((run / "folds" / "1" / "vgg16" / "features_train.json").read_text())
    views = load_config(tiny_config).transfers[0].views
    assert note["rows"] == views * (index["fold"] != 1).sum()


def test_the_run_s_own_seed_gives_the_run_s_own_network_and_another_seed_another(
    server, tiny_config
):
    run, own = server / "runs" / "tiny", load_config(tiny_config).seed
    for seed in (own, own + 1):
        train_on_server(server, str(tiny_config), "--model", "vgg16", "--seed", str(seed))
    same, other = (outputs_of(run / "seeds" / str(seed)) for seed in (own, own + 1))
    shutil.copy(run / "vgg16" / "fine_tuned.state.npz", run / "compared.npz")
    expected, _ = array_files.read_arrays(run / "compared.npz")
    found, _ = array_files.read_arrays(run / "seeds" / str(own) / "vgg16" / "fine_tuned.state.npz")
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key])
    assert abs(same - other).to_numpy().max() > 1e-3


@pytest.fixture
def varied(server, tiny_config, tmp_path, monkeypatch):
    """The scores of all trainings of the tiny run, those of a fold and of two seeds among them."""
    monkeypatch.setenv("SKIN_OUTPUT", str(server))
    monkeypatch.setattr(spread, "FOLDER", tmp_path)
    monkeypatch.setattr(variance, "SEEDS", (1, 2))
    monkeypatch.setattr(handcrafted, "TREES", 20)
    monkeypatch.setattr(handcrafted, "SEARCH_TREES", 5)
    file, _ = variance.measure(tiny_config)
    again = file.read_bytes()
    monkeypatch.setattr(variance, "score", None)  # nothing is scored twice
    assert variance.measure(tiny_config)[0].read_bytes() == again
    return tables.read_table(file, variance.schema())


def test_the_variance_study_scores_every_training(server, tiny_config, varied):
    config, run = load_config(tiny_config), server / "runs" / "tiny"
    numbers = varied.groupby(["model", "varied"])["number"].apply(list).to_dict()
    folds = list(range(config.split.folds))
    assert numbers == {
        ("color_texture_svm", "fold"): folds,
        ("color_texture_forest", "seed"): [1, 2],
        ("no_mask_svm", "fold"): folds,
        ("vgg16_linear", "fold"): folds,
        ("vgg16_frozen", "seed"): [1, 2],
        ("vgg16_fine_tuned", "seed"): [config.seed, config.seed + 1],
        ("vgg16_fine_tuned", "fold"): [1],
    }
    index, of_folds = pd.read_csv(run / "index.csv"), varied[varied["varied"] == "fold"]
    assert of_folds["images"].tolist() == [(index["fold"] == n).sum() for n in of_folds["number"]]
    of_seeds = varied[varied["varied"] == "seed"]
    assert set(of_seeds["images"]) == {(index["split"] == "test").sum()}


def test_the_seed_of_the_run_gives_the_scores_of_the_run(server, tiny_config, varied, tmp_path):
    """Training, prediction and calibration are those of the notebooks."""
    note = json.loads((tmp_path / "tiny.json").read_text(encoding="utf-8"))
    first = note["first_seeds"]["vgg16_fine_tuned"]["rules"]["equal_priors"]
    metrics = json.loads((server / "runs" / "tiny" / "metrics.json").read_text(encoding="utf-8"))
    rows = varied.set_index(["model", "varied", "number"])
    row = rows.loc["vgg16_fine_tuned", "seed", load_config(tiny_config).seed]
    for name in SCORES:
        expected = metrics["models"]["vgg16_fine_tuned"]["rules"]["equal_priors"][name]
        assert row[name] == pytest.approx(expected["value"], abs=1e-5), name
        assert first[name] == pytest.approx(expected, abs=1e-3), "the same interval over lesions"


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_what_another_backend_has_trained_is_used_by_the_notebooks(server, tiny_config, backend):
    python, run = python_of(backend), server / "runs" / "tiny"
    for file in [*run.rglob("*.state.npz"), *(run / "vgg16").glob("features_[tv]*")]:
        file.unlink()
    train_on_server(server, str(tiny_config), python=python, backend=backend)
    made = states_of(run)
    assert {"vgg16/fine_tuned.state.npz", "baseline_cnn/from_scratch.state.npz"} <= set(made)
    said = train_on_server(server, str(tiny_config))
    assert "another training" not in said
    assert states_of(run) == made


def test_a_network_that_there_is_not_is_named_with_those_that_there_are(tiny_config, capsys):
    assert train.main([str(tiny_config), "--model", "vgg61"]) == 1
    assert "has no network 'vgg61'; did you mean 'vgg16'?" in capsys.readouterr().err


def test_weights_that_are_not_on_a_server_are_named_before_anything_is_computed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SKIN_CACHE", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert train.main(["configs/demo.yaml", "--model", "vgg16"]) == 1
    assert "no weights of VGG16 there; copy vgg16_notop.npz" in capsys.readouterr().err


def test_an_index_that_was_changed_or_is_of_other_settings_is_refused(
    server, tiny_config, changed, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SKIN_OUTPUT", str(server))
    other = changed("folds: 2", "folds: 3").rename(tmp_path / "tiny.yaml")
    assert train.main([str(other)]) == 1
    assert "index.csv was made with other split: found {" in capsys.readouterr().err
    index = server / "runs" / "tiny" / "index.csv"
    text = index.read_text(encoding="utf-8")
    index.write_text(text.replace(",train,", ",test,", 1), encoding="utf-8")
    assert train.main([str(tiny_config)]) == 1
    index.write_text(text, encoding="utf-8")
    assert "index.csv was made with other split_sha256" in capsys.readouterr().err


def test_a_fold_that_there_is_not_is_an_error(reproduced, tiny_config, monkeypatch, capsys):
    monkeypatch.setenv("SKIN_OUTPUT", str(reproduced[0].parents[1]))
    assert train.main([str(tiny_config), "--fold", "7"]) == 1
    assert "--fold 7: expected one of 0 to " in capsys.readouterr().err


def test_a_run_without_index_or_images_says_which_notebook_writes_them(tiny_config, capsys):
    assert train.main([str(tiny_config)]) == 1
    assert "index.csv: no such file; run notebook 01" in capsys.readouterr().err
