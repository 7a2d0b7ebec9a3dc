"""The leakage study: what it compares, and that its committed files agree."""

import json

import numpy as np
import pandas as pd
import pytest

from lib import tables
from lib.data import datasets, duplicates
from lib.preprocessing import decode
from studies import features, leakage


@pytest.fixture(scope="module")
def images():
    """120 lesions of two classes, three images each; every second pair of lesions is one group."""
    rows = [
        (f"I{lesion}_{i}", f"L{lesion:03d}", f"L{lesion - lesion % 4 // 2:03d}", label)
        for lesion in range(120)
        for i in range(3)
        for label in [["mel", "nv"][lesion // 4 % 2]]
    ]
    return pd.DataFrame(rows, columns=["image_id", "lesion_id", "group_id", "label"])


@pytest.fixture(scope="module")
def inputs(images):
    """Features of the lesion, independent of the class: chance, unless something leaks."""
    random = np.random.default_rng(0)
    _, group = np.unique(images["group_id"], return_inverse=True)
    by_group = random.normal(size=(group.max() + 1, 200))
    return by_group[group] + 0.1 * random.normal(size=(len(images), 200))


@pytest.fixture(scope="module")
def rows(images, inputs):
    return pd.DataFrame(
        [
            row
            for unit in leakage.UNITS
            for seed in range(4)
            for row in leakage.score_split(images, inputs, unit, seed)
        ]
    )


@pytest.fixture(scope="module")
def result():
    return tables.read_table(leakage.RESULTS / "leakage.csv", leakage.RESULT_SCHEMA)


@pytest.fixture(scope="module")
def summary():
    return json.loads((leakage.RESULTS / "leakage.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("score", ["balanced_accuracy", "balanced_accuracy_several"])
@pytest.mark.parametrize("classifier", leakage.CLASSIFIERS)
def test_features_of_the_lesion_alone_score_only_where_the_split_leaks(rows, classifier, score):
    means = rows[rows["classifier"] == classifier].groupby("split")[score].mean()
    assert means["by image"] > 0.8
    assert means["by group"] < 0.65


def test_only_a_split_by_image_leaves_siblings_in_training(rows):
    siblings = rows.groupby("split")["siblings"].agg(["min", "max"])
    assert siblings.loc[["by lesion", "by group"]].to_numpy().tolist() == [[0, 0], [0, 0]]
    assert siblings.loc["by image", "min"] > 0.9


def test_the_rows_are_as_the_schema_has_them(rows):
    leakage.RESULT_SCHEMA.validate(rows)


def test_the_interval_allows_for_overlapping_splits():
    """Nadeau and Bengio: variance 1/12, (1/4 + 0.2/0.8) of it, t with 3 degrees of freedom."""
    values = np.array([0.0, 1.0, 0.0, 1.0]) / 2 + 0.25
    half = 3.1824 * np.sqrt((1 / 4 + 0.25) * 1 / 12)
    interval = leakage._interval(values)
    assert interval["value"] == 0.5
    assert interval["high"] - interval["value"] == pytest.approx(half, rel=1e-4)
    assert interval["value"] - interval["low"] == pytest.approx(half, rel=1e-4)


def test_differences_are_taken_seed_by_seed():
    """Scores that go up and down together differ by the same amount each time: no uncertainty."""
    rows = [
        {"classifier": "c", "split": split, "seed": seed, "accuracy": base + seed / 10}
        | {name: base for name in leakage.SCORES[1:]}
        for split, base in (("by image", 0.5), ("by lesion", 0.4), ("by group", 0.4))
        for seed in range(3)
    ]
    summary = leakage.summarise(pd.DataFrame(rows))["c"]
    assert summary["by image − by lesion"]["accuracy"] == pytest.approx(
        {"value": 0.1, "low": 0.1, "high": 0.1}
    )
    assert summary["by image"]["accuracy"]["high"] > summary["by image"]["accuracy"]["value"] + 0.1


@pytest.fixture
def store(tmp_path):
    """Features that cost nothing: the mean colour."""
    file = tmp_path / "features.npz"
    return features.FeatureStore(file, lambda pictures: pictures.mean(axis=(1, 2)), "mean colour")


def test_features_of_the_same_images_are_computed_once(data_folder, store):
    files = pd.Series([f"images/SYN_000000{i}.jpg" for i in range(1, 4)])
    first = leakage.compute_features(data_folder, files, store)
    assert (first.shape, first.dtype) == ((3, 3), np.float32)
    again = features.FeatureStore(store.file, None, store.model)  # it cannot compute anything
    reverse = leakage.compute_features(data_folder, files.iloc[::-1], again)
    np.testing.assert_array_equal(reverse[::-1], first)


def test_the_published_summary_is_that_of_the_published_rows(result, summary):
    cells = len(leakage.CLASSIFIERS) * len(leakage.UNITS) * len(leakage.SEEDS)
    assert len(result) == cells
    computed = leakage.summarise(result)
    assert computed.keys() == summary["scores"].keys() == leakage.CLASSIFIERS.keys()
    for classifier, ways in computed.items():
        for way, scores in ways.items():
            for score, values in scores.items():
                assert values == pytest.approx(summary["scores"][classifier][way][score], abs=1e-9)


def test_the_published_search_found_the_copies_and_took_little_time_and_memory(summary):
    searched = summary["near_duplicates"]
    assert searched["images"] == 10_015
    assert searched["planted_copies"] == 200
    assert searched["planted_copies_found"] >= 190
    assert searched["seconds_to_read"] + searched["seconds_to_search"] < 180
    # four times the images take four times as long when time is linear, sixteen when quadratic
    assert searched["seconds_to_search"] < 8 * searched["seconds_to_search_a_quarter"]
    assert searched["peak_memory_gib"] < 2


def test_every_published_pair_of_different_lesions_was_inspected(summary):
    search = summary["near_duplicates"]
    pairs = tables.read_table(leakage.RESULTS / "duplicates.csv", duplicates.PAIRS_SCHEMA)
    assert len(pairs) == search["pairs"]
    across = pairs[pairs["lesion_id_1"] != pairs["lesion_id_2"]]
    seen = tables.read_table(leakage.RESULTS / "inspected_pairs.csv", leakage.INSPECTED_SCHEMA)
    key = ["image_id_1", "image_id_2"]
    assert set(map(tuple, across[key].to_numpy())) <= set(map(tuple, seen[key].to_numpy()))
    assert (seen["verdict"] == "same view").all()
    assert search["images"] == 10_015


def test_the_regularisation_is_the_best_by_lesion_of_those_tried(summary):
    grid = {row["strength"]: row["by lesion"] for row in summary["regularisation_grid"]}
    assert tuple(grid) == leakage.STRENGTHS
    assert max(grid, key=grid.get) == leakage.REGULARISATION == summary["regularisation"]


def test_data_with_one_image_a_lesion_are_refused(write_folder):
    folder = write_folder([(f"I{i}", f"L{i}", "nv") for i in range(4)])
    with pytest.raises(ValueError, match="one image a lesion; expected HAM10000 with all of them"):
        leakage.measure(folder)


def test_a_class_without_a_test_image_is_named():
    correct, label = np.ones(2), np.array(["mel", "mel"])
    with pytest.raises(ValueError, match="no test image of class nv whose lesion has several"):
        leakage._balanced(correct, label, np.array(["mel", "nv"]))


def test_nothing_published_is_an_image():
    suffixes = {file.suffix for file in leakage.RESULTS.iterdir()}
    assert suffixes <= {".csv", ".json", ".md"}


def test_memorising_gains_by_a_split_by_image_and_regularising_hardly(summary):
    """What the prose says of the committed scores."""
    gain = {
        classifier: ways["by image − by lesion"]["balanced_accuracy_several"]
        for classifier, ways in summary["scores"].items()
    }
    assert gain["nearest neighbour"]["low"] > 0.1
    assert gain["logistic regression"]["low"] < 0 < gain["logistic regression"]["value"] < 0.05
    for ways in summary["scores"].values():
        for score in ways["by lesion − by group"].values():
            assert score["low"] < 0 < score["high"]


@pytest.mark.parametrize("alteration", leakage.ALTERATIONS)
def test_an_altered_copy_is_found(data_folder, alteration):
    metadata = datasets.read_metadata(data_folder)
    files = datasets.find_images(data_folder, metadata["image_id"]).iloc[:40]
    pictures = [decode.read_image(data_folder / path) for path in files]
    random = np.random.default_rng(1)
    copies = [leakage.alter(picture, alteration, random) for picture in pictures]
    both = duplicates.stack([duplicates.thumbnail(picture) for picture in [*pictures, *copies]])
    pairs = duplicates.find_pairs(both)
    wanted = {(i, len(pictures) + i) for i in range(len(pictures))}
    missed = wanted - set(zip(pairs["first"], pairs["second"], strict=True))
    assert len(missed) <= 2, missed


def test_a_planted_copy_that_is_found_is_counted(data_folder):
    metadata = datasets.read_metadata(data_folder)
    files = datasets.find_images(data_folder, metadata["image_id"])
    thumbs = duplicates.thumbnails(data_folder, files)
    recall = leakage.planted_recall(data_folder, files, thumbs, copies=40, seed=1)
    assert list(recall.index) == list(leakage.ALTERATIONS)
    assert recall["planted"].sum() == 40
    assert recall["found"].sum() >= 38


def test_nothing_planted_is_found_when_nothing_counts_as_the_same(data_folder, monkeypatch):
    """The measure can fail: with a threshold no pair reaches, its recall is nought."""
    monkeypatch.setattr(duplicates, "SAME_IMAGE", 1.1)
    metadata = datasets.read_metadata(data_folder)
    files = datasets.find_images(data_folder, metadata["image_id"]).iloc[:20]
    thumbs = duplicates.thumbnails(data_folder, files)
    assert leakage.planted_recall(data_folder, files, thumbs, 10, seed=1)["found"].sum() == 0
