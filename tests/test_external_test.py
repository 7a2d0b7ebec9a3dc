"""A network is tested on images from elsewhere, and on no image that its run has seen."""

import copy
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from lib import paths, tables
from lib.config import load_config
from lib.data import datasets
from lib.evaluation import prediction_files
from lib.networks import inference
from lib.preprocessing import pipeline
from tools import (
    external_test,
    finished_run,
    publish,
    publish_external,
    result_tables,
    synthetic,
)

CLASSES = ["bcc", "mel", "nv"]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Return a folder as another clinic would photograph it, three nevi called something else."""
    folder = tmp_path_factory.mktemp("elsewhere") / "clinic"
    synthetic.generate(folder, lesions=30, seed=8, elsewhere=True)
    file = folder / "HAM10000_metadata.csv"
    table = pd.read_csv(file)
    nevi = table.loc[table["dx"] == "nv", "lesion_id"].unique()[:3]
    table.loc[table["lesion_id"].isin(nevi), "dx"] = "df"
    table.to_csv(file, index=False)
    return folder


@pytest.fixture
def own_network(finished, tiny_config, monkeypatch):
    """Use the networks of the finished run; return how to test the fine-tuned one on a folder."""
    monkeypatch.setenv("SKIN_OUTPUT", str(finished.output))
    arguments = {"model": "vgg16_fine_tuned", "own": True}
    manifest = json.loads((finished.run / "vgg16" / "manifest.json").read_text(encoding="utf-8"))
    scores = finished.run / "metrics.json"
    tables.write_json({"manifest": {"vgg16_fine_tuned": manifest}}, scores)
    yield lambda folder: external_test.predict_folder(str(tiny_config), folder, **arguments)
    shutil.rmtree(finished.run / "external", ignore_errors=True)
    scores.unlink()


def test_images_from_elsewhere_differ_in_light_and_skin_and_not_in_their_lesions():
    plan = synthetic.image_plan(30, 8)
    other = synthetic.from_elsewhere(plan, 8)
    assert (other["gain_r"] / other["gain_b"] > plan["gain_r"] / plan["gain_b"]).all()
    assert (other["skin_tone"] > plan["skin_tone"]).all()
    assert other["ruler"].sum() > plan["ruler"].sum()
    for column in ("dx", "lesion", "view", "rotation"):
        assert (other[column] == plan[column]).all()
    assert not set(other["image_id"]) & set(plan["image_id"])


def test_what_is_predicted_is_what_the_network_says_of_the_images(own_network, elsewhere, run):
    written = own_network(elsewhere)
    schema = prediction_files.predictions_schema(CLASSES)
    table = tables.read_table(written / "predictions.csv", schema)
    note = json.loads((written / "external.json").read_text(encoding="utf-8"))
    metadata = datasets.read_metadata(elsewhere).set_index("image_id")
    n_other = (metadata["dx"] == "df").sum()
    assert len(table) == note["images"] == len(metadata) - n_other
    assert note["other_diagnoses"] == n_other >= 3
    assert (table["label"] == metadata.loc[table["image_id"], "dx"].to_numpy()).all()
    network, description = finished_run.read_run(run, "vgg16_fine_tuned")
    image_id = table["image_id"][5]
    image = pipeline.prepare(elsewhere / "images" / f"{image_id}.jpg", run.preprocessing)
    outputs = inference.predict(network, image[None], views=description.test_time_views)
    expected = description.calibration.apply(outputs)[0]
    found = table.loc[5, [f"prob_{name}" for name in CLASSES]].to_numpy(float)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    groups = pd.read_csv(written / "subgroups.csv", dtype=str)
    assert set(groups["image_id"]) == set(metadata.index)


def test_images_and_lesions_of_the_run_are_left_out(own_network, elsewhere, finished, tmp_path):
    split = pd.read_csv(finished.run / "index.csv", dtype=str)
    folder = tmp_path / "clinic"
    shutil.copytree(elsewhere, folder)
    file = folder / "HAM10000_metadata.csv"
    table = pd.read_csv(file)
    lesion = table.loc[table["dx"] == "mel", "lesion_id"].iloc[0]
    table.loc[table["lesion_id"] == lesion, "lesion_id"] = split["lesion_id"].iloc[0]
    table.to_csv(file, index=False)
    note = json.loads((own_network(folder) / "external.json").read_text(encoding="utf-8"))
    same = (table["lesion_id"] == split["lesion_id"].iloc[0]).sum()
    assert note["left_out"]["of the run"] == same > 0
    assert note["images"] == len(table) - (table["dx"] == "df").sum() - same


def test_an_image_that_cannot_be_used_is_named_and_counted(
    own_network, elsewhere, tmp_path, capsys
):
    folder = tmp_path / "clinic"
    shutil.copytree(elsewhere, folder)
    first, second, *_ = sorted((folder / "images").glob("*.jpg"))
    first.write_text("no image")
    second.unlink()
    note = json.loads((own_network(folder) / "external.json").read_text(encoding="utf-8"))
    assert note["left_out"] == {"of the run": 0, "no file": 1, "cannot be used": 1}
    assert f"left out: {first.name}: " in capsys.readouterr().err


def test_a_folder_of_the_run_s_own_images_is_one_clear_error(own_network, data_folder):
    with pytest.raises(ValueError, match="no image of bcc, mel, nv that the run has not seen"):
        own_network(data_folder)


def test_a_network_whose_scores_are_not_there_is_one_clear_error(
    own_network, elsewhere, finished, monkeypatch
):
    monkeypatch.setattr(external_test.predict, "predict_files", None)  # it says so at once
    tables.write_json({"manifest": {}}, finished.run / "metrics.json")
    with pytest.raises(FileNotFoundError, match="no scores of .*vgg16.model.keras in "):
        own_network(elsewhere)


def test_a_folder_that_is_not_there_is_named(own_network, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no HAM10000_metadata.csv there"):
        own_network(tmp_path / "nowhere")


def test_a_test_that_fails_leaves_the_files_of_the_one_before(
    own_network, elsewhere, tmp_path, monkeypatch
):
    target = own_network(elsewhere)
    before = {file: file.read_bytes() for file in target.iterdir()}
    copy = tmp_path / "clinic"
    shutil.copytree(elsewhere, copy)
    with monkeypatch.context() as patch:
        patch.setattr(external_test.survey, "measure_all", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            own_network(copy)
    assert {file: file.read_bytes() for file in target.iterdir()} == before
    (target / "results.json").write_text("{}")
    assert not (own_network(copy) / "results.json").exists()


def test_a_folder_without_one_of_the_classes_is_one_clear_error(
    own_network, elsewhere, tmp_path, monkeypatch
):
    folder = tmp_path / "clinic"
    shutil.copytree(elsewhere, folder)
    file = folder / "HAM10000_metadata.csv"
    table = pd.read_csv(file)
    table[table["dx"] != "bcc"].to_csv(file, index=False)
    monkeypatch.setattr(external_test.predict, "predict_files", None)  # it says so at once
    with pytest.raises(ValueError, match="clinic: no image of bcc that the run has not seen"):
        own_network(folder)


# ------------------------------------------------------------------------------- publish-external


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """Return a copy of the demonstration's published results, with a page to write them to."""
    monkeypatch.setenv("SKIN_OUTPUT", str(tmp_path))
    target = tmp_path / "published_reports"
    shutil.copytree(
        publish.REPORTS / "demo" / "published",
        target / "demo" / "published",
        ignore=lambda _, names: {name for name in names if not name.endswith(".json")},
    )
    monkeypatch.setattr(publish, "REPORTS", target)
    for name in ("README", "RESULTS"):
        page = tmp_path / f"{name}.md"
        marks = [*result_tables.MARKS, *result_tables.DEMO_MARKS]
        page.write_text("\n".join([*marks, ""]))
        monkeypatch.setattr(result_tables, name, page)
    return target


@pytest.fixture
def tested(reports):
    """Write what notebook 08 writes, with scores of the demonstration; return the file."""
    run = json.loads((reports / "demo" / "published" / "metrics.json").read_text(encoding="utf-8"))
    model = run["primary"]
    part = {"models": {model: run["models"][model]}}
    source = {"model": model, "title": run["titles"][model], "folder": "clinic"}
    source["weights_sha256"] = run["manifest"][model]["weights_sha256"]
    results = {
        "source": source | {"images": 1234, "lesions": 567},
        "scores": {"inside": part, "outside": copy.deepcopy(part)},
        "operating_points": {"melanoma": {model: run["operating_points"]["melanoma"][model]}},
    }
    outside = results["scores"]["outside"]["models"][model]["rules"]["equal_priors"]
    outside["balanced_accuracy"] = {"value": 0.4321, "low": 0.3, "high": 0.5}
    file = paths.run_folder("demo") / external_test.FOLDER / "results.json"
    tables.write_json(results, file)
    return file


def test_a_published_external_test_is_in_both_pages(reports, tested):
    target = publish_external.publish_external(load_config("configs/demo.yaml"))
    assert target == reports / "demo" / "external" / "clinic.json"
    assert json.loads(target.read_text()) == json.loads(tested.read_text())
    for page in (result_tables.README, result_tables.RESULTS):
        text = page.read_text(encoding="utf-8")
        assert "On 1,234 images of 567 lesions outside the run (`clinic`)" in text
        assert "a balanced accuracy of 0.432 (0.300 to 0.500) instead of 0." in text
    assert "VGG16, fine-tuned, outside | equal priors | 0.432 (0.300 to 0.500) |" in text


def test_an_external_test_of_an_earlier_network_is_not_published(reports, tested):
    results = json.loads(tested.read_text())
    results["source"]["weights_sha256"] = "0" * 64
    tables.write_json(results, tested)
    with pytest.raises(ValueError, match="is of another network than"):
        publish_external.publish_external(load_config("configs/demo.yaml"))
    assert not (reports / "demo" / "external").exists()
    tables.write_json(results, reports / "demo" / "external" / "clinic.json")
    assert [run["external"] for run in result_tables.read_published(reports)] == [[]]


def test_without_an_external_test_there_is_nothing_to_publish(reports):
    with pytest.raises(FileNotFoundError, match=r"results\.json: no such file; `make external-te"):
        publish_external.publish_external(load_config("configs/demo.yaml"))
