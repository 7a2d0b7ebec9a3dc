"""The leakage meter: what it compares, and that what it published is what it says."""

import numpy as np
import pandas as pd
import pytest

from lib import paths, tables
from lib.data import datasets, duplicates
from lib.evaluation import bootstrap
from lib.preprocessing import decode
from studies import leakage


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
def features(images):
    """Features that know the lesion and nothing of the class: chance, unless something leaks."""
    random = np.random.default_rng(0)
    _, group = np.unique(images["group_id"], return_inverse=True)
    of_group = random.normal(size=(group.max() + 1, 200))
    return of_group[group] + 0.1 * random.normal(size=(len(images), 200))


@pytest.fixture(scope="module")
def rows(images, features):
    return pd.DataFrame(
        [
            row
            for unit in leakage.UNITS
            for seed in range(4)
            for row in leakage.score_split(images, features, unit, seed)
        ]
    )


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
    found = leakage._interval(values)
    assert found["value"] == 0.5
    assert found["high"] - found["value"] == pytest.approx(half, rel=1e-4)
    assert found["value"] - found["low"] == pytest.approx(half, rel=1e-4)


def test_differences_are_taken_seed_by_seed():
    """Scores that go up and down together differ by the same amount each time: no uncertainty."""
    rows = [
        {"classifier": "c", "split": split, "seed": seed, "accuracy": base + seed / 10}
        | {name: base for name in leakage.SCORES[1:]}
        for split, base in (("by image", 0.5), ("by lesion", 0.4), ("by group", 0.4))
        for seed in range(3)
    ]
    said = leakage.summarise(pd.DataFrame(rows))["c"]
    assert said["by image − by lesion"]["accuracy"] == pytest.approx(
        {"value": 0.1, "low": 0.1, "high": 0.1}
    )
    assert said["by image"]["accuracy"]["high"] > said["by image"]["accuracy"]["value"] + 0.1


def test_features_are_computed_once_for_the_same_images(data_folder, tmp_path, monkeypatch):
    files = pd.Series([f"images/SYN_000000{i}.jpg" for i in range(1, 4)])
    kept = tmp_path / "features.npy"
    first = leakage.deep_features(data_folder, files, kept)
    assert first.shape == (3, 1280)
    kept.write_bytes(b"")
    np.save(kept, first + 1)
    assert np.array_equal(leakage.deep_features(data_folder, files, kept), first + 1)
    again = leakage.deep_features(data_folder, files.iloc[::-1], kept)
    np.testing.assert_allclose(again[::-1], first, rtol=1e-4, atol=1e-4)


def test_the_published_summary_is_that_of_the_published_rows():
    result, said = leakage.read_result()
    cells = len(leakage.CLASSIFIERS) * len(leakage.UNITS) * len(leakage.SEEDS)
    assert len(result) == cells
    found = leakage.summarise(result)
    assert found.keys() == said["scores"].keys() == leakage.CLASSIFIERS.keys()
    for classifier, ways in found.items():
        for way, scores in ways.items():
            for score, values in scores.items():
                assert values == pytest.approx(said["scores"][classifier][way][score], abs=1e-9)


def test_the_published_search_found_the_copies_and_took_little_time_and_memory():
    _, said = leakage.read_result()
    searched = said["near_duplicates"]
    assert searched["images"] == 10_015
    assert searched["planted_copies"] == 200
    assert searched["planted_copies_found"] >= 190
    assert searched["seconds_to_read"] + searched["seconds_to_search"] < 180
    # four times the images take four times as long when time is linear, sixteen when quadratic
    assert searched["seconds_to_search"] < 8 * searched["seconds_to_search_a_quarter"]
    assert searched["peak_memory_gib"] < 2


def test_every_published_pair_of_different_lesions_was_looked_at():
    _, searched = leakage.read_result()
    said = searched["near_duplicates"]
    pairs = tables.read_table(leakage.PUBLISHED / "duplicates.csv", leakage.duplicates.PAIRS_SCHEMA)
    assert len(pairs) == said["pairs"]
    across = pairs[pairs["lesion_id_1"] != pairs["lesion_id_2"]]
    seen = leakage.read_inspected()
    key = ["image_id_1", "image_id_2"]
    assert set(map(tuple, across[key].to_numpy())) <= set(map(tuple, seen[key].to_numpy()))
    assert (seen["verdict"] == "same view").all()
    assert said["images"] == 10_015


def test_the_regularisation_is_the_best_by_lesion_of_those_tried():
    _, said = leakage.read_result()
    grid = {row["strength"]: row["by lesion"] for row in said["regularisation_grid"]}
    assert tuple(grid) == leakage.STRENGTHS
    assert max(grid, key=grid.get) == leakage.REGULARISATION == said["regularisation"]


def test_data_with_one_image_a_lesion_are_refused(write_folder):
    folder = write_folder([(f"I{i}", f"L{i}", "nv") for i in range(4)])
    with pytest.raises(ValueError, match="one image a lesion; expected HAM10000 with all of them"):
        leakage.run(folder)


def test_a_class_without_a_test_image_is_named():
    right, label = np.ones(2), np.array(["mel", "mel"])
    with pytest.raises(ValueError, match="no test image of class nv whose lesion has several"):
        leakage._balanced(right, label, np.array(["mel", "nv"]))


def test_nothing_published_is_an_image():
    suffixes = {file.suffix for file in leakage.PUBLISHED.iterdir()}
    assert suffixes <= {".csv", ".json", ".md"}


def test_what_notebook_01_says_of_the_published_scores_holds():
    """Who remembers gains by a split by image; the regularised classifier hardly; names nothing."""
    _, said = leakage.read_result()
    gain = {
        classifier: ways["by image − by lesion"]["balanced_accuracy_several"]
        for classifier, ways in said["scores"].items()
    }
    assert gain["nearest neighbour"]["low"] > 0.1
    assert gain["logistic regression"]["low"] < 0 < gain["logistic regression"]["value"] < 0.05
    for ways in said["scores"].values():
        for score in ways["by lesion − by group"].values():
            assert score["low"] < 0 < score["high"]


def test_the_readme_quotes_the_published_scores():
    _, said = leakage.read_result()
    text = (paths.ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for classifier, ways in said["scores"].items():
        cells = [
            bootstrap.format_interval(ways[way]["balanced_accuracy"])
            for way in ("by image", "by lesion", "by image − by lesion")
        ]
        assert f"| {classifier} | {' | '.join(cells)} |" in text


@pytest.mark.parametrize("alteration", leakage.ALTERATIONS)
def test_an_altered_copy_is_found(data_folder, alteration):
    metadata = datasets.read_metadata(data_folder)
    files = datasets.find_images(data_folder, metadata["image_id"]).iloc[:40]
    pictures = [decode.read_image(data_folder / path) for path in files]
    random = np.random.default_rng(1)
    copies = [leakage.alter(picture, alteration, random) for picture in pictures]
    both = duplicates.stack([duplicates.thumbnail(each) for each in [*pictures, *copies]])
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
