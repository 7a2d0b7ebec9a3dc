"""Prediction of single images: equal to the run's, under both rules, robust to bad images."""

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import config, paths
from lib.data import datasets
from lib.evaluation import priors
from lib.models import models_of
from lib.networks import inference, saving
from lib.preprocessing import decode, image_array
from tools import finished_run, predict, published_networks

REAL = paths.ROOT / "reports" / "ham10000" / "published" / "predictions.csv"
CLASSES = ["bcc", "mel", "nv"]
NETWORKS = ("baseline_cnn", "vgg16_frozen", "vgg16_fine_tuned")


@pytest.fixture
def published(finished, monkeypatch):
    monkeypatch.setattr(published_networks, "MODELS", finished.models)
    return finished.models


@pytest.fixture
def own_run(finished, published, monkeypatch):
    """The run under the networks that were published of it."""
    monkeypatch.setenv("SKIN_OUTPUT", str(finished.output))
    return finished.run


@pytest.fixture
def files(data_folder):
    """Five images of the run."""
    return sorted((data_folder / "images").glob("*.jpg"))[:5]


def predictions(files, model, **options):
    network, note = published_networks.load("tiny", model)
    return [prediction for _, prediction in predict.predict_files(files, network, note, **options)]


def run_command(capsys, *arguments):
    """Run the command; return its exit status, stdout and stderr."""
    status = predict.main([*map(str, arguments)])
    return status, *capsys.readouterr()


# ----------------------------------------------------------------------------- the same as the run


@pytest.mark.parametrize("model", NETWORKS)
def test_a_file_gets_what_its_row_of_the_array_gets(own_run, run, data_folder, model):
    """By the notebooks' own steps: the saved network, the row, the views, the calibration."""
    index = datasets.read_index(run)
    images, rows = image_array.open_images(index, run), np.array([3, 0, 7])
    views = 1 if model == "baseline_cnn" else 2
    row = models_of(run)[model]
    network = saving.read_model(run, row.folder, row.network)
    outputs = inference.predict(network, images, rows, views=views)
    prior = priors.training_prior(index, CLASSES)
    outputs = finished_run.read_run(run, model)[1].calibration.apply(outputs)
    np.testing.assert_allclose(outputs.sum(axis=1), 1)
    predicted = predictions([data_folder / path for path in index.loc[rows, "path"]], model)
    for prediction, expected in zip(predicted, outputs, strict=True):
        assert list(prediction.index) == CLASSES
        np.testing.assert_allclose(prediction["training_prior"], expected, atol=1e-6)
        equal = expected / prior
        np.testing.assert_allclose(prediction["equal_priors"], equal / equal.sum(), atol=1e-6)
    assert np.abs(predicted[0]["training_prior"] - predicted[1]["training_prior"]).max() > 1e-4


def test_both_rules_choose_as_the_table_of_predictions_does(published, files, own_run, run):
    index = datasets.read_index(run)
    prior = priors.training_prior(index, CLASSES)
    predicted = predictions(files, "vgg16_fine_tuned")
    table = np.stack([prediction["training_prior"] for prediction in predicted])
    for column, places in priors.decide(table, prior).items():
        rule = {column: name for name, column in priors.PREDICTED.items()}[column]
        assert [predict.predicted_classes(prediction)[rule] for prediction in predicted] == [
            CLASSES[place] for place in places
        ]


def test_predictions_do_not_depend_on_the_batch_size(published, files):
    one, all_ = (predictions(files, "vgg16_frozen", batch_size=size) for size in (1, 5))
    for left, right in zip(one, all_, strict=True):
        pd.testing.assert_frame_equal(left, right, atol=1e-6)


def test_no_more_than_a_batch_of_images_is_in_memory(published, files, monkeypatch):
    seen, predict_images = [], inference.predict

    def watched(network, images, **options):
        seen.append(len(images))
        return predict_images(network, images, **options)

    monkeypatch.setattr(inference, "predict", watched)
    network, note = published_networks.load("tiny", "baseline_cnn")
    predicted = predict.predict_files(files, network, note, batch_size=2)
    next(predicted)
    assert seen == [2], "later batches are predicted when they are needed"
    assert len(list(predicted)) == 4
    assert seen == [2, 2, 1]


# -------------------------------------------------------------------------------------- the command


def test_a_prediction_has_both_probabilities_both_classes_and_the_disclaimer(
    published, files, capsys
):
    status, output, errors = run_command(capsys, files[0], "--config", "tiny")
    assert (status, errors) == (0, "")
    (prediction,) = predictions(files[:1], "vgg16_fine_tuned")
    lines = output.splitlines()
    assert lines[0] == "VGG16, fine-tuned, run tiny, from vgg16_fine_tuned.npz"
    assert str(files[0]) in lines
    for name, row in prediction.iterrows():
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert row["diagnosis"] in line
        shown = [float(value) for value in line.split()[-2:]]
        assert shown == [round(row["training_prior"], 3), round(row["equal_priors"], 3)]
    assert lines[-2] == "Research software, not a medical device"


def test_the_text_names_the_most_probable_class_under_each_rule():
    names = [config.CLASS_NAMES[name] for name in CLASSES]
    probabilities = {"training_prior": [0.1, 0.2, 0.7], "equal_priors": [0.1, 0.6, 0.3]}
    prediction = pd.DataFrame({"diagnosis": names} | probabilities, index=CLASSES)
    lines = predict.as_text(paths.ROOT / "a.jpg", prediction).splitlines()
    assert lines[1].endswith("  under the training prior  under equal priors")
    assert [line for line in lines if "most probable" in line] == [
        "most probable under the training prior: nv (melanocytic nevus)",
        "most probable under equal priors: mel (melanoma)",
    ]


def test_json_is_one_line_an_image_and_nothing_else(published, files, capsys):
    options = ("--config", "tiny", "--model", "baseline_cnn", "--json")
    status, output, errors = run_command(capsys, *files[:2], *options)
    assert status == 0
    assert "Baseline CNN" in errors, "stderr names the network"
    rows = [json.loads(line) for line in output.splitlines()]
    assert [row["image"] for row in rows] == [str(file) for file in files[:2]]
    for row, prediction in zip(rows, predictions(files[:2], "baseline_cnn"), strict=True):
        assert (row["run"], row["model"]) == ("tiny", "baseline_cnn")
        assert row["note"] == "Research software, not a medical device"
        for rule, name in predict.predicted_classes(prediction).items():
            assert row[rule]["predicted"] == name
            assert row[rule]["probabilities"] == pytest.approx(prediction[rule].to_dict(), abs=1e-6)


def test_a_bad_image_is_named_and_the_others_are_predicted(published, files, tmp_path, capsys):
    for file in files[:2]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "AAA.jpg").write_bytes(b"not an image")
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((64, 64), np.uint8))
    options = ("--config", "tiny", "--model", "baseline_cnn", "--json")
    status, output, errors = run_command(capsys, tmp_path, tmp_path / "gone.jpg", *options)
    assert status == 1
    images = [json.loads(line)["image"] for line in output.splitlines()]
    assert images == [str(tmp_path / file.name) for file in files[:2]]
    lines = [line for line in errors.splitlines() if line.startswith("error")]
    assert len(lines) == 3
    assert lines[0].startswith("error: AAA.jpg: not an image in JPEG or PNG format")
    assert lines[1].startswith("error: grey.png: ")
    assert lines[2] == "error: gone.jpg: no such image"


def test_other_files_in_a_folder_are_counted(published, files, tmp_path, capsys):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.JPG").write_bytes(files[0].read_bytes())
    (tmp_path / "a_segmentation.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "._a.jpg").write_bytes(b"")
    assert predict.list_images(tmp_path) == ([tmp_path / "below" / "a.JPG"], 3)
    options = ("--config", "tiny", "--model", "baseline_cnn")
    status, output, errors = run_command(capsys, tmp_path, *options)
    assert status == 0
    assert output.count(predict.DISCLAIMER) == 1
    assert errors == f"{tmp_path.name}: 3 other files ignored\n"


def test_a_folder_without_an_image_is_an_error(published, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("notes")
    status, _, errors = run_command(capsys, tmp_path, "--config", "tiny", "--model", "baseline_cnn")
    assert status == 1
    assert f"error: {tmp_path.name}: a folder without images; expected files that end" in errors


def test_the_user_s_own_run_is_used_on_request_where_it_exists(own_run, tiny_config, files, capsys):
    options = ("--config", tiny_config, "--model", "baseline_cnn")
    _, published, _ = run_command(capsys, files[0], *options)
    _, own, _ = run_command(capsys, files[0], *options, "--run")
    assert "from baseline_cnn.npz" in published
    assert "from runs/tiny/baseline_cnn/model.keras" in own
    assert published.splitlines()[1:] == own.splitlines()[1:], "their predictions are the same"


def test_without_an_own_run_the_published_network_is_used(published, tiny_config, files, capsys):
    options = ("--config", tiny_config, "--model", "baseline_cnn", "--run")
    status, output, _ = run_command(capsys, files[0], *options)
    assert status == 0
    assert "from baseline_cnn.npz" in output


def test_a_run_that_is_not_published_is_one_clear_error(published, files, capsys):
    status, output, errors = run_command(capsys, files[0], "--config", "nowhere")
    assert (status, output) == (1, "")
    assert errors.startswith("error: manifest.json: no such file; `make publish-models` writes it")


def test_no_image_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as ended:
        predict.main([])
    assert ended.value.code == 2
    assert "the following arguments are required: IMAGE" in capsys.readouterr().err


def command(make, tmp_path, *arguments):
    done = make("--dry-run", "predict", *arguments, output=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.replace("\\\n", " ").splitlines()
    (line,) = [" ".join(line.split()) for line in lines if "tools.predict" in line]
    return line.removeprefix(f'"{sys.executable}"')


def test_make_predict_takes_the_full_experiment_whatever_its_default_run_is(make, tmp_path):
    start = ' -m tools.predict --config "ham10000"'
    assert command(make, tmp_path, "IMAGE=my lesion.jpg") == f'{start} -- "$ARG_IMAGE"'
    given = ("CONFIG=demo", "MODEL=baseline_cnn", "IMAGE=a")
    expected = ' -m tools.predict --config "demo" --model="$ARG_MODEL" -- "$ARG_IMAGE"'
    assert command(make, tmp_path, *given) == expected
    assert command(make, tmp_path) == start


# --------------------------------------------------------------------------------- on real images


@pytest.mark.skipif(
    not (published_networks.MODELS / "ham10000" / published_networks.MANIFEST).is_file()
    or not REAL.is_file(),
    reason="no networks, or no predictions, of the full experiment are published",
)
@pytest.mark.parametrize("model", NETWORKS)
def test_the_published_networks_reproduce_the_published_predictions(ham10000, model):
    """On few images where each is predicted in eight views of VGG16."""
    n = 24 if model == "baseline_cnn" else 6
    table = pd.read_csv(REAL)
    table = table[table["model"] == model].sample(n, random_state=2023).set_index("image_id")
    files = datasets.find_images(ham10000, table.index)
    assert len(files) == n
    size = decode.read_image(ham10000 / files.iloc[0]).shape[:2]
    if size != (224, 224):
        pytest.skip(f"the run was made on a copy stored at 224 x 224 pixels; these are {size}")
    network, note = published_networks.load("ham10000", model)
    expected = table[[f"prob_{name}" for name in note.classes]].to_numpy()
    predicted = predict.predict_files(
        [ham10000 / files[name] for name in table.index], network, note
    )
    for (_, prediction), row in zip(predicted, expected, strict=True):
        np.testing.assert_allclose(prediction["training_prior"], row, atol=0.005)


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_file_name_in_another_encoding_loses_no_image(monkeypatch, options):
    table = predict._prediction([0.9, 0.1], [0.6, 0.4], {}, ["mel", "nv"], ["m", "n"])
    names = [Path(os.fsdecode(b"caf\xe9.jpg")), Path("second.jpg")]
    note = SimpleNamespace(title="A network", run="tiny", source="a file")
    monkeypatch.setattr(predict, "open_network", lambda *_: (None, note))
    monkeypatch.setattr(predict, "predict_files", lambda *_: ((name, table) for name in names))
    written = io.BytesIO()
    strict = io.TextIOWrapper(written, "utf-8", errors="strict", write_through=True)
    monkeypatch.setattr(sys, "stdout", strict)
    assert predict.main(["a.jpg", *options]) == 0
    text = written.getvalue().decode()
    assert r"caf\udce9.jpg" in text and "second.jpg" in text
    if options:
        images = [json.loads(line)["image"] for line in text.splitlines()]
        assert images == [str(name) for name in names]
