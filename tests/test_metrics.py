"""Metrics: by hand or against scikit-learn, with intervals over lesions; what is published."""

import base64
import json
import re
import shutil

import cv2
import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from conftest import with_model
from nbformat import v4
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    matthews_corrcoef,
    precision_recall_fscore_support,
    roc_auc_score,
)

from lib import paths, tables
from lib.data import splits
from lib.evaluation import bootstrap, findings, metrics, prediction_files, priors, score_tables
from lib.evaluation.scores import CLASS_LABELS, SCORES, Score, class_scores, rule_draws
from lib.models import models_of, titles
from tools import index_page, publish, result_tables, whole_files

CLASSES = ["bcc", "mel", "nv"]
PRIOR = np.array([0.1, 0.1, 0.8])
#: What the manifest of a calibrated network has.
CALIBRATED = {
    "calibration": {"scale": 0.8, "bias": {"bcc": -1.0, "mel": 0.0, "nv": 1.0}},
    "output_prior": [1 / 3, 1 / 3, 1 / 3],
}


def predictions(n=90, seed=0, model="baseline_cnn", split="test", prior=PRIOR):
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
    return prediction_files.prediction_table(model, rows, probabilities, CLASSES, prior)


def evaluate(table, run):
    """Return the scores of the only model of a table."""
    options = metrics.settings(run.model_dump())
    (model,) = metrics.evaluate_models(table, titles(run), **options)["models"].values()
    return model


@pytest.fixture
def test_rows():
    return predictions()


# ------------------------------------------------------------------------------ priors and rules


def test_a_posterior_is_converted_as_worked_by_hand():
    """0.2 and 0.8 with shares of 1 and 4 in 5 say nothing but the shares."""
    before = np.array([0.2, 0.8])
    converted = priors.change_prior([[0.2, 0.8], [0.5, 0.5]], before, [0.5, 0.5])
    np.testing.assert_allclose(converted, [[0.5, 0.5], [0.8, 0.2]])
    np.testing.assert_allclose(priors.change_prior(converted, [1, 1], before)[1], [0.5, 0.5])


def test_a_converted_posterior_is_bayes_rule_with_the_other_prior():
    random = np.random.default_rng(0)
    likelihood = random.random((20, 3))
    before, after = random.dirichlet(np.ones(3), size=2)

    def posterior(prior):
        joint = likelihood * prior
        return joint / joint.sum(axis=1, keepdims=True)

    converted = priors.change_prior(posterior(before), before, after)
    np.testing.assert_allclose(converted, posterior(after))
    np.testing.assert_allclose(converted.sum(axis=1), 1)


def test_a_class_without_probability_gets_none():
    converted = priors.change_prior([[0.0, 0.5, 0.5]], [0.0, 0.5, 0.5], [1 / 3] * 3)
    np.testing.assert_allclose(converted, [[0, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("probabilities", "before", "found"),
    [
        ([[0.5, 0.5], [0.0, 0.0]], [0.5, 0.5], "row 1: all probabilities are 0"),
        ([[0.5, 0.5]], [0.0, 1.0], "class 0 has positive probability and a prior of 0"),
        ([[np.nan, 0.5]], [0.5, 0.5], "probabilities: expected finite values >= 0; found nan"),
        ([[0.5, 0.5]], [-1.0, 2.0], "priors: expected finite values >= 0; found -1.0"),
        ([[0.5, 0.5]], [0.2, 0.2, 0.6], r"priors of shape \(3,\)"),
    ],
)
def test_what_cannot_be_converted_is_refused(probabilities, before, found):
    with pytest.raises(ValueError, match=found):
        priors.change_prior(probabilities, before, np.full(len(before), 0.5))


def test_the_training_prior_is_the_shares_of_the_training_images():
    labels = ["bcc", "mel", "mel", "nv", "nv", "nv", "nv", "nv"]
    index = pd.DataFrame({"label": labels, "split": ["train"] * 6 + ["test"] * 2})
    np.testing.assert_allclose(priors.training_prior(index, CLASSES), [1 / 6, 2 / 6, 3 / 6])
    with pytest.raises(ValueError, match="no training image of class bcc"):
        priors.training_prior(index[1:], CLASSES)


def test_a_fold_s_prior_is_the_shares_of_the_other_folds_whatever_the_split():
    labels = ["bcc", "mel", "nv", "nv", "bcc", "mel", "nv", "mel"]
    index = pd.DataFrame({"label": labels, "fold": [0, 0, 0, 0, 1, 1, 1, 2]})
    index["split"] = ["train", "test"] * 4
    np.testing.assert_allclose(priors.fold_prior(index, 0, CLASSES), [1 / 4, 2 / 4, 1 / 4])
    np.testing.assert_allclose(priors.fold_prior(index, 1, CLASSES), [1 / 5, 2 / 5, 2 / 5])
    with pytest.raises(ValueError, match="no training image of class bcc"):
        priors.fold_prior(index[1:4], 1, CLASSES)


def test_both_predictions_follow_from_the_probabilities_as_written():
    rows = predictions(2)
    probabilities = np.array([[0.2, 0.0, 0.8], [0.0999996, 0.1000004, 0.8]])
    table = prediction_files.prediction_table("alexnet", rows, probabilities, CLASSES, PRIOR)
    assert table["predicted"].tolist() == ["nv", "nv"]
    # to equal priors: 2, 0, 1; then, rounded to six digits, 1, 1, 1, where the first one wins
    assert table["predicted_equal_priors"].tolist() == ["bcc", "bcc"]
    assert prediction_files.predictions_schema(CLASSES).validate(table) is not None


def test_the_configured_backbone_stands_in_the_titles(run):
    changed = with_model(run, "vgg16", backbone="MobileNetV2")
    assert titles(changed)["vgg16_frozen"] == "MobileNetV2, frozen"
    assert titles(run)["vgg16_frozen"] == "VGG16, frozen"


def test_what_looks_at_no_image_has_no_folder(run):
    trivial = [name for name, model in models_of(run).items() if not model.settings]
    assert trivial == ["majority", "stratified"]


# ---------------------------------------------------------------------------------------- scores


def test_scores_of_both_rules_agree_with_scikit_learn(run, test_rows):
    scores = evaluate(test_rows, run)
    for rule, column in priors.PREDICTED.items():
        found, predicted = scores["rules"][rule], test_rows[column]
        right = (test_rows["label"] == predicted).mean()
        assert found["accuracy"]["value"] == pytest.approx(right, abs=1e-6)
        expected = balanced_accuracy_score(test_rows["label"], predicted)
        assert found["balanced_accuracy"]["value"] == pytest.approx(expected, abs=1e-6)
        counts = confusion_matrix(test_rows["label"], predicted, labels=CLASSES)
        assert found["confusion"] == counts.tolist()
        rates = precision_recall_fscore_support(test_rows["label"], predicted, labels=CLASSES)
        for key, expected in zip(("ppv", "sensitivity", "f1"), rates, strict=False):
            values = [found["per_class"][name][key]["value"] for name in CLASSES]
            assert values == pytest.approx(expected.tolist(), abs=1e-6)
    assert scores["rules"]["training_prior"] != scores["rules"]["equal_priors"]


def test_scores_of_probabilities_agree_with_scikit_learn_and_need_no_rule(run, test_rows):
    rules = evaluate(test_rows, run)["rules"].values()
    probabilities = test_rows[[f"prob_{name}" for name in CLASSES]]
    expected = roc_auc_score(
        test_rows["label"], probabilities, multi_class="ovr", average="macro", labels=CLASSES
    )
    for scores in rules:
        assert scores["macro_auc"]["value"] == pytest.approx(expected, abs=1e-5)
        for name in CLASSES:
            pair = test_rows["label"] == name, test_rows[f"prob_{name}"]
            found = scores["per_class"][name]
            assert found["auc"]["value"] == pytest.approx(roc_auc_score(*pair), abs=1e-6)
            assert found["average_precision"]["value"] == pytest.approx(
                average_precision_score(*pair), abs=1e-6
            )


def test_each_classifier_has_all_scores(run, test_rows):
    """A row never takes one score from each decision rule."""
    for scores in evaluate(test_rows, run)["rules"].values():
        assert list(scores) == [*SCORES, "per_class", "confusion"]
        for values in scores["per_class"].values():
            assert list(values) == ["images", "lesions", *CLASS_LABELS]


def test_equal_priors_find_more_of_a_rare_class(run):
    """Posteriors that are right about a rare class: the rule of equal priors finds more of it."""
    random = np.random.default_rng(1)
    target = random.choice(3, size=600, p=PRIOR)
    likelihood = np.exp(-((random.normal(target, 1)[:, None] - np.arange(3)) ** 2) / 2)
    probabilities = priors.change_prior(likelihood, np.ones(3), PRIOR)
    rows = pd.DataFrame({"image_id": [f"{i:03}" for i in range(600)], "split": "test"})
    rows["lesion_id"] = rows["group_id"] = rows["image_id"]
    rows["label"] = np.array(CLASSES)[target]
    table = prediction_files.prediction_table("alexnet", rows, probabilities, CLASSES, PRIOR)
    rules = evaluate(table, run)["rules"]
    as_trained, equal = rules["training_prior"], rules["equal_priors"]
    assert equal["balanced_accuracy"]["value"] > as_trained["balanced_accuracy"]["value"]
    assert equal["accuracy"]["value"] < as_trained["accuracy"]["value"]
    sensitivity = [rule["per_class"]["mel"]["sensitivity"]["value"] for rule in (as_trained, equal)]
    assert sensitivity[1] > sensitivity[0]


def test_intervals_hold_the_value(run, test_rows):
    for scores in evaluate(test_rows, run)["rules"].values():
        for name in SCORES:
            assert 0 <= scores[name]["low"] < scores[name]["value"] < scores[name]["high"] <= 1


def test_per_class_scores_are_those_worked_by_hand():
    #                    predicted:  bcc mel nv
    confusion = np.array([[4, 1, 0], [2, 5, 3], [0, 4, 81]])
    scores = {name: draws[0, 1] for name, draws in class_scores(confusion[None]).items()}
    assert scores == {
        "sensitivity": pytest.approx(5 / 10),
        "specificity": pytest.approx(85 / 90),
        "ppv": pytest.approx(5 / 10),
        "npv": pytest.approx(85 / 90),
        "f1": pytest.approx(2 * 5 / 20),
    }


def test_a_class_that_is_never_predicted_has_no_ppv():
    scores = class_scores(np.array([[[3, 0], [2, 0]]] * 3))
    assert bootstrap.interval(scores["ppv"][:, 1], 0.95) is None
    assert bootstrap.interval(scores["npv"][:, 1], 0.95)["value"] == 3 / 5


def auc(*arguments):
    return bootstrap.curve_draws(*arguments, {"auc": bootstrap.auc})["auc"]


def test_auc_counts_ties_one_half_and_takes_weights():
    score = np.array([0.9, 0.5, 0.5, 0.1])
    positive = np.array([True, True, False, False])
    weights = np.array([[1, 1, 1, 1], [0, 2, 1, 1]])
    # by hand: pairs 1, 1, 1/2, 1 of 4; then only the second positive: 1/2 and 1
    np.testing.assert_allclose(auc(score, positive, weights), [3.5 / 4, 1.5 / 2])


def test_auc_is_that_of_all_pairs_for_any_weights_and_ties():
    """The definition, pair by pair; and scikit-learn's for the plain sample."""
    random = np.random.default_rng(3)
    score, positive = random.random(300).round(2), random.random(300) < 0.2
    weights = random.integers(0, 4, size=(bootstrap.BLOCK + 7, 300)).astype(float)
    weights[0] = 1
    above = np.sign(score[positive][:, None] - score[~positive]) / 2 + 0.5
    of_positive, of_negative = weights[:, positive], weights[:, ~positive]
    expected = np.einsum("dp,pn,dn->d", of_positive, above, of_negative)
    expected /= of_positive.sum(axis=1) * of_negative.sum(axis=1)
    found = auc(score, positive, weights)
    np.testing.assert_allclose(found, expected)
    assert found[0] == pytest.approx(roc_auc_score(positive, score))


def test_answering_with_the_most_frequent_class_is_chance_in_balanced_accuracy(run):
    rows = predictions()
    always = np.tile([0.0, 0.0, 1.0], (len(rows), 1))
    table = prediction_files.prediction_table("majority", rows, always, CLASSES, PRIOR)
    scores = evaluate(table, run)["rules"]["equal_priors"]
    assert scores["balanced_accuracy"] == pytest.approx(
        {"value": 1 / 3, "low": 1 / 3, "high": 1 / 3}
    )
    assert scores["macro_auc"]["value"] == pytest.approx(0.5)


def test_a_perfect_classifier_has_every_score_at_1(run):
    rows = predictions()
    sure = (rows["label"].to_numpy()[:, None] == np.array(CLASSES)).astype(float)
    table = prediction_files.prediction_table("alexnet", rows, sure, CLASSES, PRIOR)
    for scores in evaluate(table, run)["rules"].values():
        certain = {"value": 1, "low": 1, "high": 1}
        assert all(scores[name] == pytest.approx(certain) for name in SCORES)
        for name in CLASSES:
            values = scores["per_class"][name]
            assert all(values[key] == pytest.approx(certain) for key in CLASS_LABELS)


def test_a_random_classifier_has_chance_inside_its_intervals(run):
    rows = predictions(900, seed=4)
    random = np.random.default_rng(5).dirichlet(np.ones(3), size=len(rows))
    table = prediction_files.prediction_table("alexnet", rows, random, CLASSES, np.ones(3) / 3)
    scores = evaluate(table, run)["rules"]["equal_priors"]
    for name, chance in (("balanced_accuracy", 1 / 3), ("macro_auc", 1 / 2)):
        assert scores[name]["low"] < chance < scores[name]["high"]
    assert scores["macro_auc"]["high"] - scores["macro_auc"]["low"] < 0.2


# --------------------------------------------------------------------------- a score of one's own


def matthews_correlation(confusion):
    """Return the Matthews correlation for several classes (Gorodkin 2004); 0 if undefined."""
    total, actual, predicted = (confusion.sum(axis=axis) for axis in ((1, 2), 2, 1))
    covariance = np.trace(confusion, axis1=1, axis2=2) * total - (actual * predicted).sum(axis=1)
    spread = [total**2 - (counts**2).sum(axis=1) for counts in (actual, predicted)]
    scale = np.sqrt(spread[0] * spread[1])
    return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)


MATTHEWS = Score("Matthews correlation", matthews_correlation)


@pytest.fixture
def add_matthews(monkeypatch):
    """Return a function that adds the score: later in a test, so that files can be older."""
    return lambda: monkeypatch.setitem(SCORES, "matthews", MATTHEWS)


def test_a_score_is_one_function_and_one_entry(run, test_rows, add_matthews):
    before = evaluate(test_rows, run)
    add_matthews()
    scores = evaluate(test_rows, run)
    for rule, column in priors.PREDICTED.items():
        expected = matthews_corrcoef(test_rows["label"], test_rows[column])
        found = scores["rules"][rule].pop("matthews")
        assert found["value"] == pytest.approx(expected, abs=1e-6)
        assert found["low"] < found["value"] < found["high"]
    assert scores == before


def test_a_score_is_computed_for_every_draw(test_rows, add_matthews):
    add_matthews()
    weights = bootstrap.lesion_weights(test_rows, draws=20, seed=1)
    for column in priors.PREDICTED.values():
        draws = rule_draws(test_rows, column, CLASSES, weights)
        pair = test_rows["label"], test_rows[column]
        expected = [matthews_corrcoef(*pair, sample_weight=weight) for weight in weights]
        np.testing.assert_allclose(draws["matthews"], expected)
        expected = [np.average(pair[0] == pair[1], weights=weight) for weight in weights]
        np.testing.assert_allclose(draws["accuracy"], expected)


def test_an_added_score_is_in_every_table(run, written, cross_validated, add_matthews):
    add_matthews()
    results = results_of(run, written)
    for part in (results, results["cross_validation"]):
        column = score_tables.classifier_table(part)["Matthews correlation"]
        model = part["models"]["vgg16_linear"]
        for rule, title in priors.RULES.items():
            expected = bootstrap.format_interval(model["rules"][rule]["matthews"])
            assert column[title, model["title"]] == expected
    assert all("matthews" in pair for pair in results["differences"])


def test_a_score_that_a_model_lacks_is_a_dash_and_has_no_difference(run, written, monkeypatch):
    """A score of one's own may divide by nothing, such as the PPV of a class never predicted."""

    def ppv_of_first_class(confusion):
        with np.errstate(invalid="ignore"):
            return confusion[:, 0, 0] / confusion[:, :, 0].sum(axis=1)

    monkeypatch.setitem(SCORES, "ppv", Score("PPV", ppv_of_first_class))
    results = results_of(run, written)
    assert results["models"]["majority"]["rules"]["training_prior"]["ppv"] is None
    table = score_tables.classifier_table(results)["PPV"]
    assert table["training prior", results["models"]["majority"]["title"]] == "–"
    pairs = [pair for pair in results["differences"] if pair["rule"] == "training_prior"]
    assert [pair for pair in pairs if "ppv" in pair]
    assert not [pair for pair in pairs if "ppv" in pair and pair["less"] == "majority"]


# ------------------------------------------------------------------------------------- bootstrap


def test_images_of_one_lesion_are_drawn_together(test_rows):
    weights = bootstrap.lesion_weights(test_rows, draws=50, seed=1)
    assert (weights[0] == 1).all()
    for _, rows in test_rows.reset_index().groupby("group_id"):
        assert (weights[:, rows.index] == weights[:, rows.index[:1]]).all()


def test_the_number_of_lesions_of_each_class_is_held_fixed(test_rows):
    weights = bootstrap.lesion_weights(test_rows, draws=50, seed=1)
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
        score = evaluate(table.reset_index(drop=True), run)["rules"]["equal_priors"]["accuracy"]
        return score["high"] - score["low"]

    assert width(together) > 2 * width(apart)


def test_the_bootstrap_repeats_for_a_seed(test_rows):
    np.testing.assert_array_equal(
        bootstrap.lesion_weights(test_rows, 5, seed=1),
        bootstrap.lesion_weights(test_rows, 5, seed=1),
    )


# ------------------------------------------------------------------------------- files, contracts


@pytest.fixture
def written(run):
    """The files notebooks 03 and 04 write, for a small index; return the index."""
    parts = [predictions(60, 5, split="train")]
    parts[0].loc[parts[0].index % 3 > 0, "label"] = "nv"
    prior = priors.training_prior(parts[0], CLASSES)
    for seed, split in enumerate(("validation", "test")):
        parts.append(predictions(45, seed, split=split, prior=prior))
    rows = pd.concat(parts[1:])
    learnt = [model for model in models_of(run).values() if model.settings]
    for folder in {model.folder for model in learnt}:
        place = paths.run_folder(run.name) / folder
        place.mkdir()
        names = [model.name for model in learnt if model.folder == folder]
        tables.write_table(
            pd.concat([rows.assign(model=name) for name in names]), place / "predictions.csv"
        )
    for model in learnt:
        (paths.run_folder(run.name) / model.folder / f"{model.manifest}.json").write_text(
            json.dumps({"seconds": 1} | (CALIBRATED if model.network else {}))
        )
    index = pd.concat(parts, ignore_index=True)
    return index[["image_id", "lesion_id", "group_id", "label", "split"]].assign(
        fold=index.index % 2, path=index["image_id"] + ".jpg"
    )


def decisions(table, prior, classes):
    """Return both predictions, recomputed from a table's probabilities and the classes' shares."""
    probabilities = table[[f"prob_{name}" for name in classes]].to_numpy()
    return {
        "predicted": np.array(classes)[probabilities.argmax(axis=1)],
        "predicted_equal_priors": np.array(classes)[(probabilities / prior).argmax(axis=1)],
    }


def recompute(table, results, prior):
    """Check both predictions and the scores of both classifiers of every model in a table.

    `prior` returns the shares that hold for a row's fold.
    """
    assert set(table["model"]) == set(results["models"])
    for fold, rows in table.groupby("fold"):
        for column, chosen in decisions(rows, prior(fold), results["classes"]).items():
            assert rows[column].tolist() == chosen.tolist()
    for name, model in results["models"].items():
        rows = table[table["model"] == name]
        for rule, column in priors.PREDICTED.items():
            scores = model["rules"][rule]
            right = (rows["label"] == rows[column]).mean()
            assert right == pytest.approx(scores["accuracy"]["value"], abs=1e-6)
            balanced = balanced_accuracy_score(rows["label"], rows[column])
            assert balanced == pytest.approx(scores["balanced_accuracy"]["value"], abs=1e-6)


def recompute_published(folder):
    """Check a published run's predictions and scores, from its files alone."""
    results = json.loads((folder / "metrics.json").read_text())
    text = {"image_id": str}
    table = pd.read_csv(folder / "predictions.csv", dtype=text).assign(fold="none")
    shares = np.array([results["training_prior"][name] for name in results["classes"]])
    for column, chosen in decisions(table, shares, results["classes"]).items():
        assert table[column].tolist() == chosen.tolist()
    recompute(table[table["split"] == "test"], results, lambda fold: shares)

    crossed = folder / "cross_validation.csv"
    assert crossed.is_file() == (results.get("cross_validation") is not None)
    if crossed.is_file():
        table = pd.read_csv(crossed, dtype=text)
        images = table.drop_duplicates("image_id")
        split = pd.read_csv(folder / "split.csv", dtype=text)
        folds = images.set_index("image_id")["fold"].sort_index()
        assert folds.equals(split.set_index("image_id")["fold"].sort_index())

        def of_others(fold):
            others = images.loc[images["fold"] != fold, "label"]
            return others.value_counts(normalize=True)[results["classes"]].to_numpy()

        recompute(table, results["cross_validation"] | {"classes": results["classes"]}, of_others)


@pytest.fixture
def cross_validated(run, written):
    """The out-of-fold predictions of a model on all images, as notebook 04 writes them."""
    file = paths.run_folder(run.name) / "vgg16" / "cross_validation.csv"
    return tables.write_table(out_of_fold(written, "vgg16_linear", 0), file)


def out_of_fold(index, model, seed):
    """Return a model's predictions of every image, under the shares of the other folds."""
    hit = np.eye(3)[index["label"].map(CLASSES.index)]
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(3), size=len(index)) + 0.5 * hit
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    parts = []
    for fold, rows in index.groupby("fold"):
        prior = priors.fold_prior(index, fold, CLASSES)
        table = prediction_files.prediction_table(
            model, rows, probabilities[rows.index], CLASSES, prior
        )
        parts.append(table.assign(fold=fold))
    return pd.concat(parts)


def results_of(run, index):
    return metrics.build_metrics(
        prediction_files.read_predictions(run, index),
        index,
        run,
        prediction_files.read_cross_validation(run, index),
    )


def test_metrics_hold_every_model_and_the_trivial_baseline(run, written):
    results = results_of(run, written)
    assert list(results["models"]) == list(models_of(run))
    assert results["training_prior"]["nv"] > results["training_prior"]["bcc"]
    assert results["cross_validation"] is None
    assert results["images"] == {"train": 60, "validation": 45, "test": 45}
    majority = results["models"]["majority"]["rules"]["equal_priors"]
    assert majority["balanced_accuracy"]["value"] == pytest.approx(1 / 3)
    assert results["primary"] == "vgg16_fine_tuned" and results["primary_rule"] == "equal_priors"
    assert json.loads(json.dumps(results)) == results
    for rule in results["models"]["vgg16_frozen"]["rules"].values():
        assert sum(map(sum, rule["confusion"])) == 45
    assert list(results["manifest"]) == [*metrics.manifests(run), "configuration"]
    assert results["manifest"]["configuration"]["seed"] == run.seed


def test_no_path_of_a_machine_is_in_the_metrics(run, written):
    """The tests' data lie outside the repository; only the folder's name is told."""
    assert run.data.folder.startswith("/")
    assert metrics.configuration(run)["data"]["folder"] == "tiny"
    assert run.data.folder not in json.dumps(results_of(run, written))


def test_only_test_images_are_scored(run, written):
    table = prediction_files.read_predictions(run, written)
    table.loc[table["split"] == "validation", "predicted"] = "bcc"
    before = metrics.build_metrics(prediction_files.read_predictions(run, written), written, run)
    assert metrics.build_metrics(table, written, run)["models"] == before["models"]


def test_predictions_from_another_split_are_refused(run, written):
    moved = written.assign(split=written["split"].replace({"test": "validation"}))
    with pytest.raises(ValueError, match="written for another split"):
        prediction_files.read_predictions(run, moved)


@pytest.mark.parametrize("change", ["a missing row", "another label", "a missing model"])
def test_predictions_that_do_not_match_the_index_are_refused(run, written, change):
    file = paths.run_folder(run.name) / "vgg16" / "predictions.csv"
    table = pd.read_csv(file)
    if change == "a missing row":
        table = table.drop(index=3)
    elif change == "another label":
        table.loc[3, "label"] = "nv" if table.loc[3, "label"] != "nv" else "mel"
    else:
        table = table[table["model"] == "vgg16_frozen"]
    tables.write_table(table, file)
    with pytest.raises(
        ValueError, match=r"predictions\.csv was written for another split: \d+ rows"
    ):
        prediction_files.read_predictions(run, written)


@pytest.mark.parametrize(
    ("folder", "notebook"),
    [("color_texture_svm", "03_baseline_cnn"), ("alexnet", "03_baseline_cnn")]
    + [("vgg16", "04_vgg16_transfer")],
)
@pytest.mark.parametrize("name", ["predictions.csv", "manifest.json"])
def test_a_missing_folder_is_one_clear_error(run, written, folder, notebook, name):
    (paths.run_folder(run.name) / folder / name).unlink()
    notebook = f"notebooks/{notebook}.ipynb"
    assert (paths.ROOT / notebook).is_file()
    with pytest.raises(FileNotFoundError, match=f"runs/tiny/{folder}/{name}: .*run {notebook}"):
        results_of(run, written)


@pytest.mark.parametrize("column", priors.PREDICTED.values())
def test_predictions_that_do_not_follow_from_the_probabilities_are_refused(run, written, column):
    file = paths.run_folder(run.name) / "alexnet" / "predictions.csv"
    table = pd.read_csv(file)
    table.loc[3, column] = "nv" if table.loc[3, column] != "nv" else "mel"
    tables.write_table(table, file)
    with pytest.raises(ValueError, match=rf"predictions\.csv: {column} does not follow .* 1 rows"):
        prediction_files.read_predictions(run, written)


def test_differences_are_those_of_the_primary_model_and_of_questions_asked_before(run, written):
    results = results_of(run, written)
    pairs = [(p["model"], p["less"]) for p in results["differences"] if p["rule"] == "equal_priors"]
    others = [name for name in models_of(run) if name != "vgg16_fine_tuned"]
    assert pairs == [("vgg16_fine_tuned", name) for name in others] + [
        ("baseline_cnn", "majority"),
        ("baseline_cnn", "color_texture_svm"),
        ("vgg16_frozen", "vgg16_linear"),
    ]
    assert len(results["differences"]) == 2 * len(pairs)


def test_models_that_predict_the_same_do_not_differ(run, written):
    """The learnt models of this index are all the same: no difference, and no doubt about it."""
    results = results_of(run, written)
    row = score_tables.difference_table(results).loc["VGG16, frozen"].iloc[0]
    assert row["balanced accuracy"] == "+0.000 (+0.000 to +0.000)"
    assert set(row[["p (balanced accuracy)", "p (accuracy)", "p (McNemar)"]]) == {"1.000"}


def test_a_difference_is_that_of_two_scores_under_the_same_rule(run, written):
    models = ["vgg16_linear", "vgg16_frozen"]
    table = pd.concat(out_of_fold(written, model, i) for i, model in enumerate(models))
    options = metrics.settings(run.model_dump())
    found = metrics.evaluate_models(table, titles(run), **options, comparisons=[models[::-1]])
    assert list(found["models"]) == models
    assert [pair["rule"] for pair in found["differences"]] == list(priors.RULES)
    for pair in found["differences"]:
        for score in SCORES:
            values = [
                found["models"][pair[side]]["rules"][pair["rule"]][score]["value"]
                for side in ("model", "less")
            ]
            assert pair[score]["value"] == pytest.approx(values[0] - values[1])
            assert pair[score]["low"] < pair[score]["high"]


# ------------------------------------------------------------------------------- cross-validation


def test_cross_validation_scores_every_image_once_a_model(run, written, cross_validated):
    found = results_of(run, written)["cross_validation"]
    assert list(found["models"]) == ["vgg16_linear"]
    assert (found["images"], found["folds"]) == (len(written), 2)
    for model in found["models"].values():
        for rule in model["rules"].values():
            assert np.sum(rule["confusion"]) == len(written)
    titles_shown = score_tables.classifier_table(found).index.get_level_values("model")
    assert set(titles_shown) == {"VGG16 features, logistic regression"}


@pytest.mark.parametrize("change", ["a missing row", "another fold"])
def test_cross_validation_on_other_folds_is_refused(run, written, cross_validated, change):
    table = pd.read_csv(cross_validated)
    if change == "a missing row":
        table = table.drop(index=3)
    else:
        table.loc[3, "fold"] = 1 - table.loc[3, "fold"]
    tables.write_table(table, cross_validated)
    with pytest.raises(ValueError, match=r"cross_validation\.csv was written for another split"):
        prediction_files.read_cross_validation(run, written)


@pytest.mark.parametrize("column", priors.PREDICTED.values())
def test_cross_validation_that_does_not_follow_from_its_probabilities_is_refused(
    run, written, cross_validated, column
):
    table = pd.read_csv(cross_validated)
    row = np.flatnonzero(table["fold"] == 1)[3]
    table.loc[row, column] = "nv" if table.loc[row, column] != "nv" else "mel"
    tables.write_table(table, cross_validated)
    found = rf"validation\.csv: {column} does not follow .* training prior of fold 1 \[.* in 1 rows"
    with pytest.raises(ValueError, match=found):
        prediction_files.read_cross_validation(run, written)


@pytest.mark.parametrize("of", ["the training split", "the fold itself"])
def test_cross_validation_decided_with_other_shares_is_refused(run, written, cross_validated, of):
    table = pd.read_csv(cross_validated)
    for fold, rows in table.groupby("fold"):
        prior = priors.training_prior(written, CLASSES)
        if of == "the fold itself":
            prior = priors.fold_prior(written, 1 - fold, CLASSES)
        equal = decisions(rows, prior, CLASSES)["predicted_equal_priors"]
        table.loc[rows.index, "predicted_equal_priors"] = equal
    tables.write_table(table, cross_validated)
    with pytest.raises(ValueError, match="predicted_equal_priors does not follow"):
        prediction_files.read_cross_validation(run, written)


def test_a_run_without_cross_validation_has_none(run, written):
    assert prediction_files.read_cross_validation(run, written) is None


# ---------------------------------------------------------------------------- tables for a reader


def test_each_row_of_the_table_is_one_classifier_with_all_its_scores(run, written):
    results = results_of(run, written)
    table = score_tables.classifier_table(results)
    assert table.shape == (2 * len(models_of(run)), len(SCORES) + 2)
    for rule, title in priors.RULES.items():
        scores = results["models"]["vgg16_frozen"]["rules"][rule]
        row = table.loc[title, "VGG16, frozen"]
        assert row["accuracy"] == bootstrap.format_interval(scores["accuracy"])
        expected = bootstrap.format_interval(scores["per_class"]["mel"]["sensitivity"])
        assert row["melanoma sensitivity"] == expected


def test_the_class_table_has_a_dash_where_a_score_is_not_defined(run, written):
    shown = score_tables.class_table(results_of(run, written))
    assert shown.loc[("Majority-class baseline", "bcc"), "PPV"] == "–"
    assert shown.loc[("VGG16, frozen", "bcc"), "sensitivity"].count("to") == 1


def test_probabilities_that_do_not_add_up_are_refused(run, written):
    file = paths.run_folder(run.name) / "baseline_cnn" / "predictions.csv"
    table = pd.read_csv(file)
    table.loc[0, "prob_nv"] = 0.0 if table.loc[0, "prob_nv"] > 0.5 else 1.0
    tables.write_table(table, file)
    with pytest.raises(ValueError, match="probabilities sum to 1"):
        prediction_files.read_predictions(run, written)


# ------------------------------------------------------------------------------------- publishing


def picture(name):
    """Return a small PNG file, another for each name."""
    pixels = np.frombuffer(name.ljust(48, ".")[:48].encode(), np.uint8).reshape(4, 4, 3)
    return cv2.imencode(".png", pixels)[1].tobytes()


def show(run, notebook, figures):
    """Write an executed notebook that shows these figures, and the figures' files."""
    outputs = [
        v4.new_output("display_data", {"image/png": base64.encodebytes(shown).decode()})
        for shown, _ in figures.values()
    ]
    executed = v4.new_notebook(cells=[v4.new_code_cell("1", outputs=outputs)])
    place = paths.run_folder(run.name) / "notebooks"
    place.mkdir(exist_ok=True)
    nbformat.write(executed, place / f"{notebook}.ipynb")
    folder = paths.report_folder(run.name) / "figures"
    folder.mkdir(exist_ok=True)
    for name, (_, saved) in figures.items():
        (folder / name).write_bytes(saved)


def write_history(file):
    file.write_text("epoch,stage,loss\n1,from scratch,0.50\n2,from scratch,0.25\n")


@pytest.fixture
def finished(run, written, cross_validated, tmp_path, monkeypatch):
    """A run that is ready to be published, in a repository of its own."""
    monkeypatch.setattr(publish, "REPORTS", tmp_path / "reports")
    marks = "# A\n\n{}\nbefore\n{}\n\n{}\nbefore\n{}\n\nrest\n"
    for name in ("README", "RESULTS"):
        monkeypatch.setattr(result_tables, name, tmp_path / f"{name}.md")
        marked = marks.format(*result_tables.DEMO_MARKS, *result_tables.MARKS)
        (tmp_path / f"{name}.md").write_text(marked)
    folder = paths.run_folder(run.name)
    tables.write_table(written, folder / "index.csv")
    tables.write_json(results_of(run, written), folder / "metrics.json")
    for name in ("baseline_cnn/history", "baseline_cnn/history_relu", "alexnet/history"):
        write_history(folder / f"{name}.csv")
    write_history(folder / "vgg16" / "history.csv")
    (folder / "vgg16" / "class_balance.csv").write_text("class balance,accuracy\nnone,0.50\n")
    reliability = {"run": run.name, "classes": run.classes, "subgroups": [], "hidden": {}}
    tables.write_json(reliability, folder / "reliability.json")
    tables.write_json({}, folder / "localisation.json")
    for notebook, names in {
        "03_baseline_cnn": ["3.1_curves.png", "3.2_validation_confusion.png"],
        "04_vgg16_transfer": ["4.1_curves.png"],
        "05_evaluation": ["5.1_confusion.png", "5.3_actual_predicted.png"],
        "06_heatmaps": ["6.2_grad_cam.png", "6.4_probabilities.png"],
        "07_reliability": ["7.1_subgroups.png"],
    }.items():
        show(run, notebook, {name: (picture(name), picture(name)) for name in names})
    return folder


def test_publishing_writes_the_run_and_both_pages_of_results(run, written, finished):
    published = publish.publish(run)
    assert sorted(file.name for file in published.iterdir()) == [
        "05_evaluation.html",
        "06_heatmaps.html",
        "07_reliability.html",
        "3.1_curves.png",
        "3.2_validation_confusion.png",
        "4.1_curves.png",
        "5.1_confusion.png",
        "6.4_probabilities.png",
        "7.1_subgroups.png",
        "README.md",
        "class_balance.csv",
        "cross_validation.csv",
        "history.csv",
        "index.html",
        "localisation.json",
        "manifest.json",
        "metrics.json",
        "predictions.csv",
        "reliability.json",
        "split.csv",
    ]
    assert [p.name for p in published.parent.iterdir()] == ["published"]
    text = result_tables.README.read_text()
    assert "before" not in text
    assert text.startswith("# A\n")
    assert text.endswith("rest\n")
    kept = pd.read_csv(published / "split.csv")
    assert list(kept.columns) == splits.COLUMNS
    assert splits.digest(kept) == splits.digest(written)


def test_the_results_page_has_every_classifier_and_the_cross_validation(run, finished):
    results = json.loads((finished / "metrics.json").read_text())
    publish.publish(run)
    lines = result_tables.RESULTS.read_text().splitlines()
    head = (
        "| Model | Decides under | balanced accuracy | accuracy | macro AUC "
        "| melanoma sensitivity | melanoma specificity |"
    )
    assert lines.count(head) == 2
    start, n = lines.index(head) + 2, 2 * len(models_of(run))
    assert all(line.startswith("|") for line in lines[start : start + n])
    assert not lines[start + n]
    for part, name in (
        (results, "vgg16_fine_tuned"),
        (results["cross_validation"], "vgg16_linear"),
    ):
        model = part["models"][name]
        for rule, title in priors.RULES.items():
            cells = [bootstrap.format_interval(model["rules"][rule][score]) for score in SCORES]
            start = f"| {model['title']} | {title} | {' | '.join(cells)} |"
            assert sum(line.startswith(start) for line in lines) == 1
    assert any("2-fold cross-validation on all 150 images" in line for line in lines)
    assert f"In brackets: {results['interval']}." in lines


def test_the_readme_has_one_rule_in_its_table_and_says_what_does_not_flatter(run, finished):
    results = json.loads((finished / "metrics.json").read_text())
    publish.publish(run)
    text = result_tables.README.read_text()
    scores = results["models"]["vgg16_fine_tuned"]["rules"]["equal_priors"]
    cells = [bootstrap.format_interval(scores[name]) for name in SCORES]
    assert f"| VGG16, fine-tuned | {' | '.join(cells)} |" in text
    assert findings.headline(results) in text
    for sentence in findings.unflattering(results):
        assert f"- {sentence}" in text
    assert text.count("The demonstration has not been published yet.") == 1


def test_what_is_published_can_be_checked_by_recomputing_it(run, finished):
    """From the published files alone: both predictions, and both headline scores.

    Of the test split and of the cross-validation, whose folds have shares of their own.
    """
    published = publish.publish(run)
    assert (published / "cross_validation.csv").is_file()
    recompute_published(published)


def test_every_network_s_history_is_published_as_it_was_written(run, finished):
    (finished / "baseline_cnn" / "history_relu.csv").unlink()
    history = pd.read_csv(publish.publish(run) / "history.csv", dtype=str)
    assert list(history.columns) == ["model", "epoch", "stage", "loss"]
    assert list(history["model"].unique()) == ["baseline_cnn", "alexnet", "vgg16"]
    assert history["loss"].tolist() == ["0.50", "0.25"] * 3


def test_the_manifest_tells_how_the_run_came_about(run, finished):
    manifest = json.loads((publish.publish(run) / "manifest.json").read_text())
    assert manifest["seeds"] == {"run": 1, "split": 1, "synthetic images": 3}
    assert manifest["configuration"]["evaluation"]["bootstrap_draws"] == 100
    assert set(metrics.manifests(run)) < set(manifest)


@pytest.mark.parametrize("what", ["manifest", "predictions"])
def test_scores_older_than_a_network_or_its_answers_are_not_published(run, written, finished, what):
    if what == "manifest":
        (finished / "alexnet" / "manifest.json").write_text('{"seconds": 2}')
    else:
        file = finished / "alexnet" / "predictions.csv"
        table = tables.read_table(file, prediction_files.predictions_schema(run.classes))
        prior = priors.training_prior(written, run.classes)
        sure = np.array(
            [[float(name == label) for name in run.classes] for label in table["label"]]
        )
        tables.write_table(
            prediction_files.prediction_table("alexnet", table, sure, run.classes, prior), file
        )
    with pytest.raises(ValueError, match=r"older than .* of alexnet; run notebook 05 again"):
        publish.publish(run)
    assert not (publish.REPORTS / run.name).exists()


def test_publishing_twice_leaves_nothing_of_the_first(run, finished):
    published = publish.publish(run)
    (published / "left_over.csv").write_text("a\n")
    (finished / "vgg16" / "cross_validation.csv").unlink()
    assert publish.publish(run) == published
    names = [file.name for file in published.iterdir()]
    assert "left_over.csv" not in names
    assert "cross_validation.csv" not in names
    assert [p.name for p in published.parent.iterdir()] == ["published"]


@pytest.mark.parametrize(
    ("name", "shown", "found"),
    [
        ("3.3_curves.png", b"as JPEG", "3.3_curves.png is not what 03_baseline_cnn shows"),
        (None, None, "no curves or confusion matrices of 03_baseline_cnn"),
    ],
)
def test_a_figure_that_shows_images_is_refused_whatever_its_name(run, finished, name, shown, found):
    """`figures.show` embeds such a figure as JPEG, so it never equals its PNG file."""
    before = publish.publish(run)
    kept = {file.name: file.read_bytes() for file in before.iterdir()}
    for file in (paths.report_folder(run.name) / "figures").glob("3.*"):
        file.unlink()
    show(run, "03_baseline_cnn", {name: (shown, picture(name))} if name else {})
    with pytest.raises(ValueError, match=found):
        publish.publish(run)
    assert {file.name: file.read_bytes() for file in before.iterdir()} == kept


def test_only_curves_and_confusion_matrices_have_names_that_are_published():
    wanted = ["3.1_curves.png", "3.4_alexnet_curves.png", "4.2_validation_confusion.png"]
    unwanted = ["1.3_samples.png", "5.7_actual_predicted.png", "6.1_grad_cam.png", "4.1_curves.csv"]
    assert all(publish.FIGURES.fullmatch(name) for name in wanted)
    assert not any(publish.FIGURES.fullmatch(name) for name in unwanted)


def test_a_page_that_cannot_be_written_leaves_everything_as_it_was(run, finished):
    published = publish.publish(run)
    result_tables.RESULTS.write_text("no marks\n")
    readme = result_tables.README.read_text()
    (published / "left_over.csv").write_text("a\n")
    with pytest.raises(ValueError, match=r"RESULTS\.md: expected one '<!-- results"):
        publish.publish(run)
    assert (published / "left_over.csv").is_file(), "not replaced"
    assert result_tables.README.read_text() == readme


def test_an_added_score_is_in_every_page_and_a_dash_for_an_older_run(
    run, written, finished, add_matthews
):
    publish.publish(run)
    older = json.loads((finished / "metrics.json").read_text()) | {"run": "older"}
    add_matthews()
    tables.write_json(results_of(run, written), finished / "metrics.json")
    publish.publish(run)
    lines = result_tables.README.read_text().splitlines()
    head = next(line for line in lines if line.startswith("| Model"))
    assert head.split(" | ")[3:5] == ["macro AUC", "Matthews correlation"]
    heads = [
        line
        for line in result_tables.RESULTS.read_text().splitlines()
        if line.startswith("| Model")
    ]
    assert len(heads) == 2 and all("| Matthews correlation |" in head for head in heads)
    rows = [line for line in result_tables.result_tables([older]).splitlines() if "SVM" in line]
    assert {row.count("–") for row in rows} == {1}
    assert "| – |" in result_tables.headline_section([older])


def test_the_index_has_a_column_for_every_score(run, tiny_config, finished, tmp_path, add_matthews):
    add_matthews()
    page = tmp_path / "index.html"
    index_page.index(tiny_config, page, finished / "metrics.json", [])
    table = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").table
    heads = [cell.get_text() for cell in table.select("thead th")]
    place = heads.index("Matthews correlation") - 1
    assert {row.select("td")[place].get_text() for row in table.select("tbody tr")} == {"–"}


def test_a_run_of_another_version_is_named_and_left_out(run, finished, capsys):
    published = publish.publish(run)
    older = json.loads((published / "metrics.json").read_text()) | {"schema_version": 2}
    tables.write_json(older, published / "metrics.json")
    assert result_tables.read_published(publish.REPORTS) == []
    assert "metrics.json is of version 2, expected 3" in capsys.readouterr().out
    publish.publish(run)
    assert len(result_tables.read_published(publish.REPORTS)) == 1, "it replaces the older one"


@pytest.mark.parametrize("key", ["split_sha256", "configuration"])
def test_metrics_of_another_run_are_not_published(run, finished, key):
    results = json.loads((finished / "metrics.json").read_text())
    (results if key in results else results["manifest"])[key] = "another"
    tables.write_json(results, finished / "metrics.json")
    with pytest.raises(ValueError, match=rf"metrics\.json was computed with another {key}"):
        publish.publish(run)
    assert not publish.REPORTS.exists()


def test_a_run_that_is_not_finished_is_not_published(run, finished, capsys, tiny_config):
    (finished / "metrics.json").unlink()
    assert publish.main([str(tiny_config)]) == 1
    assert "error: runs/tiny/metrics.json: no such file" in capsys.readouterr().err


def test_clean_leaves_what_was_published_alone(make, tiny_config, tmp_path):
    for file in ("runs/tiny/index.csv", "reports/tiny/index.html", "reports/tiny/figures/a.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    published = tmp_path / "reports" / "tiny" / "published"
    published.mkdir()
    (published / "metrics.json").touch()
    external = published.with_name("external")
    external.mkdir()
    done = make("clean", f"CONFIG={tiny_config}", output=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "runs").iterdir()] == []
    assert sorted(p.name for p in published.parent.iterdir()) == ["external", "published"]
    shutil.rmtree(published)
    external.rmdir()
    make("clean", f"CONFIG={tiny_config}", output=tmp_path)
    assert not published.parent.exists()


# ------------------------------------------------------------------------------- what is published

PUBLISHED = sorted(publish.REPORTS.glob("*/published/metrics.json"))


def test_the_pages_of_results_are_those_of_the_published_metrics():
    runs = result_tables.read_published(publish.REPORTS)
    for page, marks, expected in (
        (result_tables.README, result_tables.DEMO_MARKS, result_tables.demo_sentence(runs)),
        (result_tables.README, result_tables.MARKS, result_tables.headline_section(runs)),
        (result_tables.RESULTS, result_tables.MARKS, result_tables.result_tables(runs)),
    ):
        assert whole_files.read_part(page, marks) == expected


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.parent.parent.name)
def test_the_split_of_every_published_run_is_committed(file):
    split = pd.read_csv(file.with_name("split.csv"), dtype=str)
    assert splits.digest(split) == json.loads(file.read_text())["split_sha256"]
    for unit in ("lesion_id", "group_id"):
        assert (split.groupby(unit)[["split", "fold"]].nunique() == 1).all(axis=None)


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.parent.parent.name)
def test_published_scores_follow_from_the_published_predictions(file):
    assert file.parent.parent.name == json.loads(file.read_text())["run"]
    recompute_published(file.parent)


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.parent.parent.name)
def test_every_published_network_tells_where_and_how_it_was_trained(file):
    manifest = json.loads(file.with_name("manifest.json").read_text())
    networks = [note for note in manifest.values() if "weights_sha256" in note]
    assert networks
    for note in networks:
        assert re.fullmatch("[0-9a-f]{64}", note["weights_sha256"])
        assert note["seconds"] > 0
        assert re.search(r", .+, \d+ cores", note["machine"])


def test_nothing_published_shows_an_image():
    """Pages show diagrams only, which `test_published_pages` checks."""
    for file in publish.REPORTS.glob("*/published/*"):
        is_text = file.suffix in (".csv", ".json", ".html", ".md")
        assert is_text or publish.FIGURES.fullmatch(file.name), file.name
