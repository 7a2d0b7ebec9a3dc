"""The augmentation study runs on a few images, and nothing that it trains on is predicted."""

import json

import numpy as np
import pandas as pd
import pytest

from lib import config, tables
from lib.evaluation import bootstrap
from studies import augmentation, command


@pytest.fixture(scope="module")
def written(data_folder, tmp_path_factory):
    """Run the study on the tiny data set; return its files, by name, and the folder of its work."""
    results, work = (tmp_path_factory.mktemp(name) for name in ("results", "work"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augmentation, "SIZE", augmentation.QUICK)
        patch.setattr(augmentation, "RESULTS", results)
        draw = bootstrap.lesion_weights
        patch.setattr(bootstrap, "lesion_weights", lambda table, _, seed: draw(table, 100, seed))
        patch.setattr(command, "work_folder", lambda study: work)
        files = augmentation.measure(data_folder)
        again = {file.name: file.read_bytes() for file in files if file.suffix == ".csv"}
        augmentation.measure(data_folder)  # resumes: every head and every feature is there
    assert again == {file.name: file.read_bytes() for file in files if file.suffix == ".csv"}
    return {file.name: file for file in files}, work


def test_every_kind_and_every_difference_has_an_interval(written):
    table = tables.read_table(written[0]["scores.csv"], augmentation.SCHEMA)
    single, pairs = table[table["minus"].isna()], table.dropna(subset=["minus"])
    assert set(single["augmentation"]) == set(augmentation.KINDS)
    assert {*zip(pairs["augmentation"], pairs["minus"], strict=True)} == {*augmentation.DIFFERENCES}
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()


def test_a_difference_is_that_of_its_scores(written):
    table = tables.read_table(written[0]["scores.csv"], augmentation.SCHEMA)
    values = table[table["minus"].isna()].set_index(["augmentation", "score"])["value"]
    for row in table.dropna(subset=["minus"]).itertuples():
        expected = values[row.augmentation, row.score] - values[row.minus, row.score]
        assert row.value == pytest.approx(expected, abs=2e-6)


def test_the_settings_are_written_beside_the_scores(written):
    summary = json.loads(written[0]["augmentation.json"].read_text(encoding="utf-8"))
    assert summary["kinds"]["full strength"] == augmentation.STRONG.model_dump()
    assert summary["folds"] == 2
    seeds = pd.read_csv(written[0]["seeds.csv"])
    assert len(seeds) == len(augmentation.KINDS) * len(summary["seeds"])


def test_full_strength_is_that_of_the_published_network():
    assert config.load_config(augmentation.CONFIGURATION).model("vgg16").augmentation == (
        augmentation.STRONG
    )


def test_there_is_a_head_for_each_fold_kind_and_seed(written):
    states = list(written[1].glob("*.state.npz"))
    assert len(states) == len(augmentation.KINDS) * 2


def test_heads_without_augmentation_see_the_plain_view_only(written, monkeypatch):
    """The heads of the first kind train on rows of the first view, all others on all views."""
    served = []
    monkeypatch.setattr(augmentation, "SIZE", augmentation.QUICK)
    original = augmentation.batching.Batches

    def spy(inputs, rows, *arguments):
        served.append(np.asarray(rows))
        return original(inputs, rows, *arguments)

    monkeypatch.setattr(augmentation.batching, "Batches", spy)
    settings = augmentation.configuration()
    n, fold = 12, np.arange(12) % 5
    index = pd.DataFrame({"fold": fold, "label": np.tile(settings.classes, 4)})
    data = augmentation.Data(settings, index, np.zeros((n, 1), np.uint8))
    features = np.random.default_rng(0).random((2 * n, 1280), np.float32).astype(np.float16)
    network = augmentation.build(settings, settings.augmentation)
    _, head = augmentation.model_graph.split_before(network, "dense")
    for views in (1, 2):
        state = written[1] / f"views_{views}.npz"
        outputs = augmentation.predict_fold(data, head, features, views, 3, 1, state)
        assert outputs.shape == ((fold == 3).sum(), 3)
    one, _, two, held_out = served
    assert set(one.ravel()) == set(np.flatnonzero(fold != 3))
    assert set(two.ravel()) == {
        row + view * n for row in np.flatnonzero(fold != 3) for view in (0, 1)
    }
    assert set(held_out.ravel()) == set(np.flatnonzero(fold == 3))
