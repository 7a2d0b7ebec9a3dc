"""Comparisons, operating points, calibration, and sentences: against worked or known values."""

import copy
import json
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, precision_recall_curve, roc_curve

from lib import paths
from lib.evaluation import (
    bootstrap,
    calibration,
    calibration_scores,
    comparison,
    curves,
    findings,
    metrics,
    operating_points,
)

ONCE = np.ones((1, 6))


@pytest.fixture
def results():
    """The published metrics of the demonstration."""
    file = paths.ROOT / "reports" / "demo" / "published" / "metrics.json"
    return json.loads(file.read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------- intervals


def test_intervals_cover_the_true_value_about_as_often_as_they_claim():
    """400 test sets of 120 lesions with 1 to 3 images; a lesion is right or wrong as a whole."""
    random, covered = np.random.default_rng(0), 0
    for seed in range(400):
        lesions = np.repeat(np.arange(120), random.integers(1, 4, 120))
        right = (random.random(120) < 0.8)[lesions].astype(float)
        table = pd.DataFrame({"group_id": lesions.astype(str), "label": "nv"})
        weights = bootstrap.lesion_weights(table, draws=300, seed=seed)
        interval = bootstrap.interval(weights @ right / weights.sum(axis=1), 0.95)
        covered += interval["low"] <= 0.8 <= interval["high"]
    assert 0.91 <= covered / 400 <= 0.98


def test_an_undefined_score_has_no_interval_and_undefined_draws_are_left_out():
    assert bootstrap.interval(np.array([np.nan, 0.5, 0.6]), 0.95) is None
    interval = bootstrap.interval(np.array([0.5, np.nan, 0.4, 0.6]), 0.5)
    assert interval == pytest.approx({"value": 0.5, "low": 0.45, "high": 0.55})


# ----------------------------------------------------------------------------------- comparisons


def test_holm_corrects_as_in_the_literature():
    """Aickin and Gensler, Am. J. Public Health 86:726, 1996, describe these steps."""
    assert comparison.holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert comparison.holm([0.6, 0.5]) == [1.0, 1.0]
    assert comparison.holm([]) == []


def test_a_p_value_is_twice_the_draws_on_the_other_side_of_zero():
    draws = np.array([0.5, *np.linspace(-0.1, 0.9, 99)])  # 10 of 99 are not above zero
    assert comparison.p_value(draws) == pytest.approx(2 * 11 / 100)
    assert comparison.p_value(np.zeros(100)) == 1
    assert comparison.p_value(np.ones(100)) == pytest.approx(0.02), "never zero"


def test_mcnemar_counts_the_images_that_one_classifier_alone_gets_right():
    """By hand: 1 against 6 of 7 that differ, so p = 2 (1 + 7) / 2**7."""
    actual = pd.Series(["nv"] * 10)
    first = pd.DataFrame({"label": actual, "predicted": ["mel"] * 6 + ["nv"] * 4})
    second = pd.DataFrame({"label": actual, "predicted": ["nv"] * 6 + ["mel"] + ["nv"] * 3})
    found = comparison.mcnemar(first, second, "predicted")
    assert found == {"only_model": 1, "only_less": 6, "p": pytest.approx(16 / 128)}
    assert comparison.mcnemar(first, first, "predicted")["p"] == 1


# --------------------------------------------------------------------------------------- curves


@pytest.fixture
def ranked():
    random = np.random.default_rng(2)
    positive = random.random(300) < 0.3
    return (random.normal(size=300) + positive).round(1), positive


def test_curves_pass_through_those_of_scikit_learn(ranked):
    once = np.ones((1, 300))
    false, sensitivity, _ = roc_curve(ranked[1], ranked[0], drop_intermediate=False)
    found = curves.roc_curve(*ranked, once, 0.95)
    expected = [sensitivity[false <= x + 1e-9].max() for x in found["x"]]
    np.testing.assert_allclose(found["y"], expected)
    precision, recall, _ = precision_recall_curve(ranked[1], ranked[0])
    found = curves.precision_recall_curve(*ranked, once, 0.95)
    reached = [np.flatnonzero(recall >= x - 1e-9).max() for x in found["x"][1:]]
    np.testing.assert_allclose(found["y"][1:], precision[reached])


def test_the_band_of_a_curve_holds_the_curve(ranked):
    table = pd.DataFrame({"group_id": np.arange(300).astype(str), "label": ranked[1].astype(str)})
    weights = bootstrap.lesion_weights(table, draws=200, seed=1)
    band = curves.roc_curve(*ranked, weights, 0.95)
    assert ((band["low"] <= band["y"]) & (band["y"] <= band["high"])).mean() > 0.95
    assert (band["high"] - band["low"]).max() > 0.05


def test_the_sensitivity_at_a_specificity_is_that_of_the_roc_curve():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    positive = np.array([True, False, True, True, False, False])
    functions = {str(level): bootstrap.sensitivity_at(level) for level in (1.0, 0.6, 0.0)}
    found = bootstrap.curve_draws(scores, positive, ONCE, functions)
    assert {key: value[0] for key, value in found.items()} == pytest.approx(
        {"1.0": 1 / 3, "0.6": 1, "0.0": 1}
    )


# ------------------------------------------------------------------------------- operating points


def predicted(probabilities, labels):
    table = pd.DataFrame(probabilities, columns=["prob_bcc", "prob_mel", "prob_nv"])
    return table.assign(label=labels)


def test_questions_are_those_that_the_classes_can_answer():
    malignant = ["akiec", "bcc", "mel"]
    assert operating_points.questions(["mel", "nv"], malignant) == {"melanoma": ["mel"]}
    assert operating_points.questions(["bcc", "nv"], malignant) == {"malignant": ["bcc"]}
    assert operating_points.questions(["corn", "wart"], malignant) == {}
    assert operating_points.questions(["corn", "wart"], ["wart"]) == {"malignant": ["wart"]}


def test_a_threshold_is_chosen_on_validation_and_measured_on_test():
    """By hand: at the threshold 0.3, one of two melanomas is found and one of two nevi called."""
    validation = predicted([[0, 0.3, 0.7], [0, 0.2, 0.8], [0, 0.6, 0.4]], ["mel", "nv", "mel"])
    test = predicted(
        [[0, 0.3, 0.7], [0, 0.2, 0.8], [0, 0.5, 0.5], [0, 0.1, 0.9]], ["mel", "mel", "nv", "nv"]
    )
    weights = np.ones((3, 4))
    points = operating_points.evaluate(validation, test, ["mel"], weights, 0.95)
    assert [(p["fixed"], p["level"]) for p in points][:2] == [
        ("specificity", 0.8),
        ("specificity", 0.9),
    ]
    for point in points:
        assert point["threshold"] == 0.3
        assert point["sensitivity"]["value"] == point["specificity"]["value"] == 0.5
        assert point["number_needed_to_biopsy"]["value"] == 2


def test_a_specificity_that_no_score_reaches_calls_nothing():
    scores, positive = np.array([1.0, 1.0]), np.array([True, False])
    assert operating_points.choose_threshold(scores, positive, "specificity", 0.9) > 1
    called_none = operating_points.evaluate(
        predicted([[0, 1, 0], [0, 1, 0]], ["mel", "nv"]),
        predicted([[0, 1, 0], [0, 0, 1]], ["mel", "nv"]),
        ["mel"],
        np.ones((3, 2)),
        0.95,
    )[0]
    assert called_none["sensitivity"]["value"] == 0
    assert called_none["number_needed_to_biopsy"] is None


def test_net_benefit_is_that_of_the_definition():
    """By hand, at 0.2: 1 of 4 found, 1 of 4 called wrongly: 1/4 - 1/4 / 4."""
    test = predicted([[0, 0.3, 0.7], [0, 0.25, 0.75], [0, 0, 1], [0, 0, 1]], ["mel"] + ["nv"] * 3)
    curve = operating_points.decision_curve(test, ["mel"], np.ones((3, 4)), 0.95)
    at_20 = next(row for row in curve if row["threshold"] == 0.2)
    assert at_20["model"]["value"] == pytest.approx(1 / 4 - 1 / 16)
    assert at_20["all"] == pytest.approx(1 / 4 - 3 / 16)


# ----------------------------------------------------------------------------------- calibration


def test_brier_score_and_diagrams_agree_with_scikit_learn():
    random = np.random.default_rng(3)
    probabilities = random.dirichlet(np.ones(3), size=400)
    labels = np.array([random.choice(["bcc", "mel", "nv"], p=p) for p in probabilities])
    found = calibration_scores.evaluate(
        pd.DataFrame({"label": labels}), probabilities, ["bcc", "mel", "nv"], np.ones((3, 400)), 0.9
    )
    expected = brier_score_loss(
        labels, probabilities, labels=["bcc", "mel", "nv"], scale_by_half=False
    )
    assert found["brier"]["value"] == pytest.approx(expected)
    observed, mean = calibration_curve(
        labels == "mel", probabilities[:, 1], n_bins=10, strategy="quantile"
    )
    bins = found["diagrams"]["mel"]
    assert [row["predicted"] for row in bins] == pytest.approx(mean.tolist(), abs=0.01)
    assert [row["observed"]["value"] for row in bins] == pytest.approx(observed.tolist(), abs=0.03)
    assert found["ece"]["value"] < 0.06


def test_a_certain_classifier_that_is_right_in_3_of_4_has_an_error_of_a_quarter():
    probabilities = np.tile([0.0, 1.0], (8, 1))
    table = pd.DataFrame({"label": ["nv"] * 6 + ["mel"] * 2})
    found = calibration_scores.evaluate(table, probabilities, ["mel", "nv"], np.ones((3, 8)), 0.95)
    assert found["ece"]["value"] == pytest.approx(0.25)
    assert found["brier"]["value"] == pytest.approx(2 / 4)


def test_calibration_can_be_undone():
    random = np.random.default_rng(4)
    outputs = random.dirichlet(np.ones(3), size=50)
    fitted = calibration.Calibration(scale=0.6, bias={"bcc": -1.2, "mel": 0.3, "nv": 2.0})
    np.testing.assert_allclose(fitted.invert(fitted.apply(outputs)), outputs, atol=1e-5)
    prior = {"bcc": 0.1, "mel": 0.2, "nv": 0.7}
    manifest = {"calibration": fitted.model_dump(), "output_prior": [1 / 3] * 3}
    found = metrics.uncalibrated(fitted.apply(outputs), manifest, prior)
    expected = outputs * list(prior.values())
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    assert metrics.uncalibrated(outputs, {}, prior) is None


# -------------------------------------------------------------------------------------- sentences


def walk(values, change):
    """Return a copy of a JSON value with every number changed, but not the `level` of a point."""
    if isinstance(values, dict):
        return {k: v if k == "level" else walk(v, change) for k, v in values.items()}
    if isinstance(values, list):
        return [walk(value, change) for value in values]
    return change(values) if isinstance(values, float) else values


@pytest.mark.parametrize(
    "sentence",
    [findings.headline, findings.rules]
    + [findings.operating_points, findings.calibration, findings.differences],
    ids=lambda function: function.__name__,
)
def test_sentences_follow_the_metrics(results, sentence):
    changed = results | {
        key: walk(results[key], lambda value: value * 0.9)
        for key in ("models", "operating_points", "calibration", "differences")
    }
    numbers = r"\d+\.?\d*%?"
    before, after = (re.findall(numbers, str(sentence(part))) for part in (results, changed))
    assert len(before) == len(after) and before != after


def test_a_primary_model_below_the_majority_class_is_said_to_be(results):
    scores = results["models"][results["primary"]]["rules"]["equal_priors"]
    scores["accuracy"] = {"value": 0.2, "low": 0.1, "high": 0.3}
    assert "0.200 (0.100 to 0.300), below that of always predicting" in findings.headline(results)


def test_what_does_not_flatter_is_said(results):
    worse = copy.deepcopy(results)
    for pair in worse["differences"]:
        for score in ("accuracy", "balanced_accuracy"):
            pair[score] |= {"value": -0.1, "p_holm": 0.001}
    text = " ".join(findings.unflattering(worse))
    assert text.count("worse than") >= 4 and "better than" not in text
    blind = copy.deepcopy(results)
    scores = blind["models"]["alexnet"]["rules"]["training_prior"]["per_class"]["mel"]
    scores["sensitivity"]["value"] = 0.0
    assert "*AlexNet, from scratch* finds 0 melanomas" in findings.unflattering(blind)[-1]


@pytest.mark.parametrize("name", ["05_evaluation", "07_reliability", "08_external_test"])
def test_no_result_is_typed_into_the_prose(name):
    """Scores have three digits, or two and an interval; such numbers come from the file."""
    notebook = nbformat.read(paths.ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    allowed = {"1.00"}  # of an interval from few lesions, in the limitations
    assert set(re.findall(r"\b\d\.\d{2,}\b", prose)) <= allowed
