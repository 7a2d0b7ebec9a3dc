"""An opened run: rows of each split, order of the held-out images, predictions written and read."""

from pathlib import Path

import numpy as np
import pytest

from lib import paths
from lib import run as run_module
from lib.data import datasets
from lib.evaluation import priors
from lib.models import models_of


@pytest.fixture
def opened(run, tiny_config, data_folder):
    """A run after notebook 01: it has an index and nothing else."""
    metadata = datasets.read_metadata(data_folder)
    files = datasets.find_images(data_folder, metadata["image_id"])
    groups = metadata.set_index("image_id")["lesion_id"]
    datasets.write_index(datasets.build_index(metadata, files, groups, run), run)
    return run_module.open_run(tiny_config)


def posteriors(opened, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(len(opened.classes)), len(opened.held_out))


def write_all(opened):
    models = [model for model in models_of(opened.config).values() if model.settings]
    for folder in {model.folder for model in models}:
        names = [model.name for model in models if model.folder == folder]
        opened.write_predictions(folder, {name: posteriors(opened) for name in names})


def test_a_run_without_an_index_is_not_opened(tiny_config):
    with pytest.raises(FileNotFoundError, match="run notebook 01"):
        run_module.open_run(tiny_config)


def test_every_row_is_in_one_split(opened):
    rows = np.concatenate([opened.rows(split) for split in ("train", "validation", "test")])
    assert sorted(rows) == list(range(len(opened.index)))
    assert set(opened.index["split"].iloc[opened.rows("test")]) == {"test"}


def test_the_held_out_images_keep_the_order_of_the_index(opened):
    expected = sorted([*opened.rows("validation"), *opened.rows("test")])
    assert opened.held_out.index.tolist() == expected


def test_targets_are_positions_among_the_classes(opened):
    labels = np.array(opened.classes)[opened.targets]
    assert labels.tolist() == opened.index["label"].tolist()


def test_the_class_prior_counts_training_images_only(opened):
    train = opened.index["label"].iloc[opened.rows("train")]
    expected = [(train == name).mean() for name in opened.classes]
    np.testing.assert_allclose(opened.class_prior, expected)


def test_images_that_are_missing_are_an_error_when_they_are_first_used(opened):
    with pytest.raises(FileNotFoundError, match="images.npy"):
        len(opened.images)


def test_a_missing_or_damaged_note_is_named(opened, tiny_config):
    note = opened.folder / "index.json"
    note.write_text("{")
    with pytest.raises(ValueError, match=r"index\.json: damaged; run notebook 01 again"):
        run_module.open_run(tiny_config)
    note.unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json: no such file; run notebook 01"):
        run_module.open_run(tiny_config)


def test_an_image_has_a_mask_or_none(opened, monkeypatch):
    masks = datasets.find_masks(opened.data_folder, opened.index["image_id"])
    monkeypatch.setattr(datasets, "find_masks", lambda *_: masks[1:])
    assert opened.has_mask.sum() == len(masks) - 1
    (without,) = np.flatnonzero(~opened.has_mask)
    assert opened.read_mask(without) is None
    assert opened.read_mask(without - 1).any()


def test_predictions_are_read_as_they_were_written(opened):
    write_all(opened)
    written = posteriors(opened)
    table = opened.read_predictions()
    rows = table[table["model"] == "alexnet"]
    assert rows["image_id"].tolist() == opened.held_out["image_id"].tolist()
    read = rows[[f"prob_{name}" for name in opened.classes]].to_numpy()
    np.testing.assert_allclose(read, written, atol=1e-6)


def test_both_decisions_are_written_with_the_probabilities(opened):
    values = posteriors(opened)
    table = opened.write_predictions("alexnet", {"alexnet": values})
    classes = np.array(opened.classes)
    assert table["predicted"].tolist() == classes[values.argmax(axis=1)].tolist()
    equal = priors.change_prior(values, opened.class_prior, np.ones(len(classes)))
    assert table["predicted_equal_priors"].tolist() == classes[equal.argmax(axis=1)].tolist()


def test_a_prediction_table_of_some_rows_names_their_images(opened):
    rows = opened.rows("validation")
    table = opened.prediction_table("alexnet", np.full((len(rows), 3), 1 / 3), rows)
    assert table["image_id"].tolist() == opened.index["image_id"].iloc[rows].tolist()


def test_predictions_read_include_the_majority_class_baseline(opened):
    write_all(opened)
    table = opened.read_predictions()
    assert list(table["model"].unique()) == list(models_of(opened.config))
    assert set(table.loc[table["model"] == "majority", "predicted"]) == {"nv"}


def test_predictions_that_are_missing_name_the_notebook_that_writes_them(opened):
    with pytest.raises(FileNotFoundError, match="03_baseline_cnn"):
        opened.read_predictions()


def test_a_tilde_is_the_home_and_other_paths_are_relative_to_the_repository(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert paths.resolve("~/my images") == Path("/home/me/my images")
    assert paths.resolve("/data/images") == Path("/data/images")
    assert paths.resolve("data/~images") == paths.ROOT / "data" / "~images"
