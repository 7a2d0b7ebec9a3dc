"""Metrics: worked by hand or against scikit-learn, with intervals over lesions."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from lib import metrics, paths, readme, splits, tables

CLASSES = ["bcc", "mel", "nv"]
PRIOR = np.array([0.1, 0.1, 0.8])


def predictions(n=90, seed=0, model="baseline_cnn", split="test"):
    """Return predictions that are right more often than not; three images a lesion."""
    random = np.random.default_rng(seed)
    target = np.sort(random.integers(3, size=n))
    probabilities = random.dirichlet(np.ones(3), size=n) + 0.6 * np.eye(3)[target]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    rows = pd.DataFrame(
        {
            "image_id": [f"{split}{i}" for i in range(n)],
            "lesion_id": [f"{split}{t}-{i // 3}" for i, t in enumerate(target)],
            "group_id": [f"{split}{t}-{i // 3}" for i, t in enumerate(target)],
            "split": split,
            "label": np.array(CLASSES)[target],
        }
    )
    return metrics.prediction_table(model, rows, probabilities, CLASSES, PRIOR)


@pytest.fixture
def test_rows():
    return predictions()


# ------------------------------------------------------------------------------ priors and rules


def test_a_posterior_is_converted_as_worked_by_hand():
    """0.2 and 0.8 with shares of 1 and 4 in 5 say nothing but the shares."""
    before = np.array([0.2, 0.8])
    converted = metrics.change_prior([[0.2, 0.8], [0.5, 0.5]], before, [0.5, 0.5])
    np.testing.assert_allclose(converted, [[0.5, 0.5], [0.8, 0.2]])
    np.testing.assert_allclose(metrics.change_prior(converted, [1, 1], before)[1], [0.5, 0.5])


def test_a_converted_posterior_is_bayes_rule_with_the_other_prior():
    random = np.random.default_rng(0)
    likelihood = random.random((20, 3))
    before, after = random.dirichlet(np.ones(3), size=2)

    def posterior(prior):
        joint = likelihood * prior
        return joint / joint.sum(axis=1, keepdims=True)

    converted = metrics.change_prior(posterior(before), before, after)
    np.testing.assert_allclose(converted, posterior(after))
    np.testing.assert_allclose(converted.sum(axis=1), 1)


def test_a_class_without_probability_gets_none():
    converted = metrics.change_prior([[0.0, 0.5, 0.5]], [0.0, 0.5, 0.5], [1 / 3] * 3)
    np.testing.assert_allclose(converted, [[0, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("probabilities", "before", "found"),
    [
        ([[0.5, 0.5], [0.0, 0.0]], [0.5, 0.5], "row 1: all probabilities are 0"),
        ([[0.5, 0.5]], [0.0, 1.0], "class 0 has probability, but a prior of 0"),
        ([[np.nan, 0.5]], [0.5, 0.5], "probabilities: expected numbers from 0 up; found nan"),
        ([[0.5, 0.5]], [-1.0, 2.0], "priors: expected numbers from 0 up; found -1.0"),
        ([[0.5, 0.5]], [0.2, 0.2, 0.6], r"priors of shape \(3,\)"),
    ],
)
def test_what_cannot_be_converted_is_refused(probabilities, before, found):
    with pytest.raises(ValueError, match=found):
        metrics.change_prior(probabilities, before, np.full(len(before), 0.5))


def test_the_training_prior_is_the_shares_of_the_training_images():
    labels = ["bcc", "mel", "mel", "nv", "nv", "nv", "nv", "nv"]
    index = pd.DataFrame({"label": labels, "split": ["train"] * 6 + ["test"] * 2})
    np.testing.assert_allclose(metrics.training_prior(index, CLASSES), [1 / 6, 2 / 6, 3 / 6])
    with pytest.raises(ValueError, match="no training image of class bcc"):
        metrics.training_prior(index[1:], CLASSES)


def test_both_predictions_follow_from_the_probabilities_as_written():
    rows = predictions(2)
    probabilities = np.array([[0.2, 0.0, 0.8], [0.0999996, 0.1000004, 0.8]])
    table = metrics.prediction_table("alexnet", rows, probabilities, CLASSES, PRIOR)
    assert table["predicted"].tolist() == ["nv", "nv"]
    # to equal priors: 2, 0, 1; then, rounded to six digits, 1, 1, 1, where the first one wins
    assert table["predicted_equal_priors"].tolist() == ["bcc", "bcc"]
    assert metrics.predictions_schema(CLASSES).validate(table) is not None


def test_the_configured_backbone_stands_in_the_titles(run):
    settings = run.vgg16_transfer.model_copy(update={"backbone": "MobileNetV2"})
    titles = metrics.titles(run.model_copy(update={"vgg16_transfer": settings}))
    assert titles["vgg16_frozen"] == "MobileNetV2, frozen"
    assert metrics.titles(run) == metrics.MODELS


def test_every_model_but_the_majority_has_one_folder():
    of_folders = [name for names in metrics.FOLDERS.values() for name in names]
    assert ["majority", *of_folders] == list(metrics.MODELS)


# ---------------------------------------------------------------------------------------- scores


def test_headline_scores_agree_with_scikit_learn(run, test_rows):
    scores = metrics.evaluate(test_rows, run)
    right = (test_rows["label"] == test_rows["predicted"]).mean()
    assert scores["accuracy"]["value"] == pytest.approx(right)
    expected = balanced_accuracy_score(test_rows["label"], test_rows["predicted"])
    assert scores["balanced_accuracy"]["value"] == pytest.approx(expected)
    probabilities = test_rows[[f"prob_{name}" for name in CLASSES]]
    expected = roc_auc_score(
        test_rows["label"], probabilities, multi_class="ovr", average="macro", labels=CLASSES
    )
    assert scores["macro_auc"]["value"] == pytest.approx(expected, abs=1e-5)


def test_intervals_hold_the_value(run, test_rows):
    scores = metrics.evaluate(test_rows, run)
    for name in metrics.SCORES:
        assert 0 <= scores[name]["low"] < scores[name]["value"] < scores[name]["high"] <= 1


def test_per_class_scores_are_those_worked_by_hand():
    #                    predicted:  bcc mel nv
    confusion = np.array([[4, 1, 0], [2, 5, 3], [0, 4, 81]])
    scores = metrics.per_class(confusion, 1)
    assert scores == {
        "images": 10,
        "sensitivity": pytest.approx(5 / 10),
        "specificity": pytest.approx(85 / 90),
        "precision": pytest.approx(5 / 10),
        "f1": pytest.approx(2 * 5 / 20),
    }


def test_a_class_that_is_never_predicted_has_no_precision():
    assert metrics.per_class(np.array([[3, 0], [2, 0]]), 1)["precision"] is None


def test_auc_counts_ties_one_half_and_takes_weights():
    score = np.array([0.9, 0.5, 0.5, 0.1])
    positive = np.array([True, True, False, False])
    weights = np.array([[1, 1, 1, 1], [0, 2, 1, 1]])
    # by hand: pairs 1, 1, 1/2, 1 of 4; then only the second positive: 1/2 and 1
    np.testing.assert_allclose(metrics.auc(score, positive, weights), [3.5 / 4, 1.5 / 2])


def test_answering_with_the_most_frequent_class_is_chance_in_balanced_accuracy(run):
    rows = predictions()
    always = np.tile([0.0, 0.0, 1.0], (len(rows), 1))
    table = metrics.prediction_table("majority", rows, always, CLASSES, PRIOR)
    scores = metrics.evaluate(table, run)
    assert scores["balanced_accuracy"] == pytest.approx(
        {"value": 1 / 3, "low": 1 / 3, "high": 1 / 3}
    )
    assert scores["macro_auc"]["value"] == pytest.approx(0.5)


# ------------------------------------------------------------------------------------- bootstrap


def test_images_of_one_lesion_are_drawn_together(test_rows):
    weights = metrics.lesion_weights(test_rows, draws=50, seed=1)
    assert (weights[0] == 1).all()
    for _, rows in test_rows.reset_index().groupby("group_id"):
        assert (weights[:, rows.index] == weights[:, rows.index[:1]]).all()


def test_the_number_of_lesions_of_each_class_is_held_fixed(test_rows):
    weights = metrics.lesion_weights(test_rows, draws=50, seed=1)
    first = test_rows.reset_index().drop_duplicates("group_id")
    for _, rows in first.groupby("label"):
        assert (weights[:, rows.index].sum(axis=1) == len(rows)).all()


def test_several_images_a_lesion_widen_the_interval(run):
    """Nine copies of each image are no more evidence, unless each is called a lesion."""
    rows = predictions(60, seed=2)
    copies = pd.concat([rows.assign(image_id=rows["image_id"] + f"-{i}") for i in range(9)])
    together = copies.assign(group_id=copies["image_id"].str.split("-").str[0])
    apart = copies.assign(group_id=copies["image_id"])

    def width(table):
        score = metrics.evaluate(table.reset_index(drop=True), run)["accuracy"]
        return score["high"] - score["low"]

    assert width(together) > 2 * width(apart)


def test_the_bootstrap_repeats_for_a_seed(test_rows):
    np.testing.assert_array_equal(
        metrics.lesion_weights(test_rows, 5, seed=1), metrics.lesion_weights(test_rows, 5, seed=1)
    )


# ------------------------------------------------------------------------------- files, contracts


@pytest.fixture
def written(run):
    """The files notebooks 03 and 04 write, for a small index; return the index."""
    parts = {
        split: predictions(45, i, split=split) for i, split in enumerate(("validation", "test"))
    }
    table = pd.concat(parts.values())
    for folder, models in metrics.FOLDERS.items():
        place = paths.run_folder(run.name) / folder
        place.mkdir()
        rows = pd.concat([table.assign(model=model) for model in models])
        tables.write_table(rows, place / "predictions.csv")
        (place / "manifest.json").write_text('{"seconds": 1}')
    train = predictions(60, 5, split="train")
    train.loc[train.index % 3 > 0, "label"] = "nv"
    index = pd.concat([train, table], ignore_index=True)
    return index[["image_id", "lesion_id", "group_id", "label", "split"]].assign(
        fold=0, path=index["image_id"] + ".jpg"
    )


def test_metrics_hold_every_model_and_the_trivial_baseline(run, written):
    table = metrics.read_predictions(run, written)
    results = metrics.build_metrics(table, written, run)
    assert list(results["models"]) == list(metrics.MODELS)
    assert results["images"] == {"train": 60, "validation": 45, "test": 45}
    assert results["models"]["majority"]["balanced_accuracy"]["value"] == pytest.approx(1 / 3)
    assert json.loads(json.dumps(results)) == results
    assert sum(map(sum, results["models"]["vgg16_frozen"]["confusion"])) == 45


def test_only_test_images_are_scored(run, written):
    table = metrics.read_predictions(run, written)
    table.loc[table["split"] == "validation", "predicted"] = "bcc"
    before = metrics.build_metrics(metrics.read_predictions(run, written), written, run)
    assert metrics.build_metrics(table, written, run)["models"] == before["models"]


def test_predictions_from_another_split_are_refused(run, written):
    moved = written.assign(split=written["split"].replace({"test": "validation"}))
    with pytest.raises(ValueError, match="made from another split"):
        metrics.read_predictions(run, moved)


@pytest.mark.parametrize("change", ["a missing row", "another label", "a missing model"])
def test_predictions_that_do_not_match_the_index_are_refused(run, written, change):
    file = paths.run_folder(run.name) / "vgg16_transfer" / "predictions.csv"
    table = pd.read_csv(file)
    if change == "a missing row":
        table = table.drop(index=3)
    elif change == "another label":
        table.loc[3, "label"] = "nv" if table.loc[3, "label"] != "nv" else "mel"
    else:
        table = table[table["model"] == "vgg16_frozen"]
    tables.write_table(table, file)
    with pytest.raises(ValueError, match=r"predictions\.csv was made from another split: \d+ rows"):
        metrics.read_predictions(run, written)


def test_differences_between_models_are_paired(run, written):
    """The learnt models of this index are all the same: no difference, and no doubt about it."""
    table = metrics.read_predictions(run, written)
    differences = metrics.paired_differences(table[table["split"] == "test"], run)
    assert list(differences.columns) == list(metrics.SCORES.values())
    assert differences.iloc[1:].to_numpy().tolist() == [["0.000 (0.000 to 0.000)"] * 3] * 6


def test_the_class_table_has_a_dash_where_a_score_is_not_defined(run, written):
    table = metrics.read_predictions(run, written)
    shown = metrics.class_table(metrics.build_metrics(table, written, run))
    assert shown.loc[("Always the most frequent class", "bcc"), "precision"] == "–"
    assert shown.loc[("VGG16, frozen", "bcc"), "sensitivity"].count("to") == 1


def test_probabilities_that_do_not_add_up_are_refused(run, written):
    file = paths.run_folder(run.name) / "baseline_cnn" / "predictions.csv"
    table = pd.read_csv(file)
    table.loc[0, "prob_nv"] = 0.0 if table.loc[0, "prob_nv"] > 0.5 else 1.0
    tables.write_table(table, file)
    with pytest.raises(ValueError, match="probabilities add up to 1"):
        metrics.read_predictions(run, written)


# ---------------------------------------------------------------------------------------- README


def test_the_readme_s_results_are_those_of_the_published_metrics():
    assert readme.current_tables() == readme.results_tables(readme.PUBLISHED)


def test_publishing_writes_the_table(run, written, tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    readme.README.write_text("# A\n\n{}\nold\n{}\n\nrest\n".format(*readme.MARKS))
    results = metrics.build_metrics(metrics.read_predictions(run, written), written, run)
    tables.write_table(written, tmp_path / "index.csv")
    readme.publish(metrics.write_json(results, tmp_path / "metrics.json"))
    text = readme.README.read_text()
    assert "old" not in text
    assert text.startswith("# A\n")
    assert text.endswith("rest\n")
    value = results["models"]["vgg16_fine_tuned"]["accuracy"]["value"]
    assert f"| VGG16, fine-tuned | {value:.3f} (" in text
    assert readme.current_tables() == readme.results_tables(readme.PUBLISHED)
    kept = pd.read_csv(readme.PUBLISHED / "tiny_split.csv")
    assert list(kept.columns) == splits.COLUMNS
    assert splits.digest(kept) == results["split_sha256"]


def test_metrics_of_another_split_are_not_published(run, written, tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "PUBLISHED", tmp_path / "published")
    results = metrics.build_metrics(metrics.read_predictions(run, written), written, run)
    tables.write_table(written.assign(fold=1), tmp_path / "index.csv")
    with pytest.raises(ValueError, match=r"metrics\.json: computed on split .*; index.csv has"):
        readme.publish(metrics.write_json(results, tmp_path / "metrics.json"))
    assert not readme.PUBLISHED.exists()


def test_the_split_of_every_published_run_is_committed():
    runs = sorted(readme.PUBLISHED.glob("*.json"))
    assert runs
    for file in runs:
        split = pd.read_csv(file.with_name(f"{file.stem}_split.csv"), dtype=str)
        assert splits.digest(split) == json.loads(file.read_text())["split_sha256"]
        for unit in ("lesion_id", "group_id"):
            assert (split.groupby(unit)[["split", "fold"]].nunique() == 1).all(axis=None)
