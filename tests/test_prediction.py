"""Prediction: the same as in the run for the same file, both rules, and images that are bad."""

import json
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import config, paths
from lib.data import datasets
from lib.evaluation import priors
from lib.networks import inference, published_networks, saving
from lib.preprocessing import decode, image_array
from tools import predict

REAL = paths.ROOT / "reports" / "ham10000" / "published" / "predictions.csv"
CLASSES = ["bcc", "mel", "nv"]


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


def answers(files, model, **options):
    network, note = published_networks.load("tiny", model)
    return [answer for _, answer in predict.predict_files(files, network, note, **options)]


def ask(capsys, *arguments):
    """Run the command; return its exit status and what it wrote."""
    status = predict.main([*map(str, arguments)])
    return status, *capsys.readouterr()


# ----------------------------------------------------------------------------- the same as the run


@pytest.mark.parametrize("model", published_networks.SOURCES)
def test_a_file_gets_what_its_row_of_the_array_gets(own_run, run, data_folder, model):
    """By the notebooks' own steps: the saved network, the row, the views, the calibration."""
    index = datasets.read_index(run)
    images, rows = image_array.open_images(index, run), np.array([3, 0, 7])
    views = 1 if model == "baseline_cnn" else 2
    network = saving.read_model(run, *published_networks.SOURCES[model])
    outputs = inference.predict(network, images, rows, views=views)
    prior = priors.training_prior(index, CLASSES)
    outputs = published_networks.read_run(run, model)[1].calibration.apply(outputs)
    np.testing.assert_allclose(outputs.sum(axis=1), 1)
    found = answers([data_folder / path for path in index.loc[rows, "path"]], model)
    for answer, expected in zip(found, outputs, strict=True):
        assert list(answer.index) == CLASSES
        np.testing.assert_allclose(answer["training_prior"], expected, atol=1e-6)
        equal = expected / prior
        np.testing.assert_allclose(answer["equal_priors"], equal / equal.sum(), atol=1e-6)
    assert np.abs(found[0]["training_prior"] - found[1]["training_prior"]).max() > 1e-4


def test_both_rules_choose_as_the_table_of_predictions_does(published, files, own_run, run):
    index = datasets.read_index(run)
    prior = priors.training_prior(index, CLASSES)
    found = answers(files, "vgg16_fine_tuned")
    table = np.stack([answer["training_prior"] for answer in found])
    for column, places in priors.decide(table, prior).items():
        rule = {each: name for name, each in priors.PREDICTED.items()}[column]
        assert [predict.chosen(answer)[rule] for answer in found] == [
            CLASSES[place] for place in places
        ]


def test_the_size_of_a_batch_makes_no_difference(published, files):
    one, all_ = (answers(files, "vgg16_frozen", batch_size=size) for size in (1, 5))
    for left, right in zip(one, all_, strict=True):
        pd.testing.assert_frame_equal(left, right, atol=1e-6)


def test_no_more_than_a_batch_of_images_is_in_memory(published, files, monkeypatch):
    seen, predict_images = [], inference.predict

    def watched(network, images, **options):
        seen.append(len(images))
        return predict_images(network, images, **options)

    monkeypatch.setattr(inference, "predict", watched)
    network, note = published_networks.load("tiny", "baseline_cnn")
    made = predict.predict_files(files, network, note, batch_size=2)
    next(made)
    assert seen == [2], "the others wait until they are asked for"
    assert len(list(made)) == 4
    assert seen == [2, 2, 1]


# -------------------------------------------------------------------------------------- the command


def test_an_answer_has_both_probabilities_both_answers_and_the_disclaimer(published, files, capsys):
    status, said, errors = ask(capsys, files[0], "--config", "tiny")
    assert (status, errors) == (0, "")
    (answer,) = answers(files[:1], "vgg16_fine_tuned")
    lines = said.splitlines()
    assert lines[0] == "VGG16, fine-tuned, run tiny, from vgg16_fine_tuned.npz"
    assert str(files[0]) in lines
    for name, row in answer.iterrows():
        (line,) = [each for each in lines if each.startswith(f"{name} ")]
        assert row["diagnosis"] in line
        shown = [float(value) for value in line.split()[-2:]]
        assert shown == [round(row["training_prior"], 3), round(row["equal_priors"], 3)]
    assert lines[-2] == "Research software, not a medical device"


@pytest.mark.parametrize(("equal", "said"), [(0.2, "the same"), (0.6, "mel (melanoma)")])
def test_the_two_answers_are_the_same_or_not(equal, said):
    names = [config.CLASS_NAMES[name] for name in CLASSES]
    shares = {"training_prior": [0.1, 0.2, 0.7], "equal_priors": [0.1, equal, 0.9 - equal]}
    answer = pd.DataFrame({"diagnosis": names} | shares, index=CLASSES)
    lines = predict.as_text(paths.ROOT / "a.jpg", answer).splitlines()
    first, second = [line.partition(": ") for line in lines if "most probable" in line]
    assert first[0].endswith("as frequent as in training")
    assert first[2] == "nv (melanocytic nevus)"
    assert second[0].endswith("equally frequent")
    assert second[2] == said


def test_json_is_one_line_an_image_and_nothing_else(published, files, capsys):
    options = ("--config", "tiny", "--model", "baseline_cnn", "--json")
    status, said, errors = ask(capsys, *files[:2], *options)
    assert status == 0
    assert "Baseline CNN" in errors, "which network answers is said beside"
    found = [json.loads(line) for line in said.splitlines()]
    assert [each["image"] for each in found] == [str(file) for file in files[:2]]
    for each, answer in zip(found, answers(files[:2], "baseline_cnn"), strict=True):
        assert (each["run"], each["model"]) == ("tiny", "baseline_cnn")
        assert each["note"] == "Research software, not a medical device"
        for rule, name in predict.chosen(answer).items():
            assert each[rule]["predicted"] == name
            assert each[rule]["probabilities"] == pytest.approx(answer[rule].to_dict(), abs=1e-6)


def test_a_bad_image_is_named_and_the_others_are_predicted(published, files, tmp_path, capsys):
    for file in files[:2]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "AAA.jpg").write_bytes(b"not an image")
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((64, 64), np.uint8))
    options = ("--config", "tiny", "--model", "baseline_cnn", "--json")
    status, said, errors = ask(capsys, tmp_path, tmp_path / "gone.jpg", *options)
    assert status == 1
    found = [json.loads(line)["image"] for line in said.splitlines()]
    assert found == [str(tmp_path / file.name) for file in files[:2]]
    lines = [line for line in errors.splitlines() if line.startswith("error")]
    assert len(lines) == 3
    assert lines[0].startswith("error: AAA.jpg: not an image in JPEG or PNG format")
    assert lines[1].startswith("error: grey.png: ")
    assert lines[2] == "error: gone.jpg: no such image"


def test_in_a_folder_what_is_no_image_is_counted(published, files, tmp_path, capsys):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.JPG").write_bytes(files[0].read_bytes())
    (tmp_path / "a_segmentation.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "._a.jpg").write_bytes(b"")
    assert predict.list_images(tmp_path) == ([tmp_path / "below" / "a.JPG"], 3)
    options = ("--config", "tiny", "--model", "baseline_cnn")
    status, said, errors = ask(capsys, tmp_path, *options)
    assert status == 0
    assert said.count(predict.DISCLAIMER) == 1
    assert errors == f"{tmp_path.name}: 3 other files left out\n"


def test_a_folder_without_an_image_is_an_error(published, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("notes")
    status, _, errors = ask(capsys, tmp_path, "--config", "tiny", "--model", "baseline_cnn")
    assert status == 1
    assert f"error: {tmp_path.name}: a folder without an image; expected files that end" in errors


def test_one_s_own_run_is_used_when_asked_for_and_there(own_run, tiny_config, files, capsys):
    options = ("--config", tiny_config, "--model", "baseline_cnn")
    _, published, _ = ask(capsys, files[0], *options)
    _, own, _ = ask(capsys, files[0], *options, "--run")
    assert "from baseline_cnn.npz" in published
    assert "from runs/tiny/baseline_cnn/model.keras" in own
    assert published.splitlines()[1:] == own.splitlines()[1:], "they answer the same"


def test_without_a_run_of_one_s_own_the_published_network_is_used(
    published, tiny_config, files, capsys
):
    options = ("--config", tiny_config, "--model", "baseline_cnn", "--run")
    status, said, _ = ask(capsys, files[0], *options)
    assert status == 0
    assert "from baseline_cnn.npz" in said


def test_a_run_that_is_not_published_is_one_clear_error(published, files, capsys):
    status, said, errors = ask(capsys, files[0], "--config", "nowhere")
    assert (status, said) == (1, "")
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
    (line,) = [" ".join(each.split()) for each in lines if "tools.predict" in each]
    return line.removeprefix(sys.executable)


def test_make_predict_takes_the_full_experiment_whatever_its_default_run_is(make, tmp_path):
    start = ' -m tools.predict --config "ham10000"'
    assert command(make, tmp_path, "IMAGE=my lesion.jpg") == f'{start} -- "my lesion.jpg"'
    given = ("CONFIG=demo", "MODEL=baseline_cnn", "IMAGE=a")
    expected = ' -m tools.predict --config "demo" --model "baseline_cnn" -- "a"'
    assert command(make, tmp_path, *given) == expected
    assert command(make, tmp_path) == start


# --------------------------------------------------------------------------------- on real images


@pytest.mark.skipif(
    not (published_networks.MODELS / "ham10000" / published_networks.MANIFEST).is_file()
    or not REAL.is_file(),
    reason="no networks, or no predictions, of the full experiment are published",
)
@pytest.mark.parametrize("model", published_networks.SOURCES)
def test_the_published_networks_reproduce_the_published_predictions(ham10000, model):
    table = pd.read_csv(REAL)
    table = table[table["model"] == model].sample(24, random_state=2023).set_index("image_id")
    files = datasets.find_images(ham10000, table.index)
    assert len(files) == 24
    size = decode.read_image(ham10000 / files.iloc[0]).shape[:2]
    if size != (224, 224):
        pytest.skip(f"the run was made on a copy stored at 224 x 224 pixels; these are {size}")
    network, note = published_networks.load("ham10000", model)
    expected = table[[f"prob_{name}" for name in note.config.classes]].to_numpy()
    found = predict.predict_files([ham10000 / files[name] for name in table.index], network, note)
    for (_, answer), row in zip(found, expected, strict=True):
        np.testing.assert_allclose(answer["training_prior"], row, atol=0.005)
