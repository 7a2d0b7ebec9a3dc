"""Calibration: what it recovers, that it does no harm, and what few images do to it."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import softmax
from sklearn.metrics import log_loss

from lib.evaluation import calibration, priors

CLASSES = ["bcc", "mel", "nv"]
EQUAL, TRAINING = np.full(3, 1 / 3), np.array([0.05, 0.1, 0.85])


MEANS = np.array([[1.5, 0.0], [0.0, 1.5], [-1.0, -1.0]])


def draw(n, scale, bias, shares=TRAINING, seed=0):
    """Outputs of a network that is to be calibrated so, and the true classes.

    Each class is a normal distribution in the plane, so its posterior under any prior is known.
    """
    random = np.random.default_rng(seed)
    targets = random.choice(3, size=n, p=shares)
    points = MEANS[targets] + random.normal(size=(n, 2))
    scores = points @ MEANS.T - (MEANS**2).sum(axis=1) / 2 + np.log(TRAINING)
    true = calibration.Calibration(scale=scale, bias=dict(zip(CLASSES, bias, strict=True)))
    outputs = softmax((scores - np.array(bias)) / scale, axis=1)
    np.testing.assert_allclose(true.apply(outputs), softmax(scores, axis=1), atol=1e-3)
    return outputs, targets, true


def fit(outputs, targets, before=EQUAL):
    return calibration.fit(outputs, targets, before, TRAINING, CLASSES)


def test_the_scale_and_the_biases_of_the_truth_are_found():
    outputs, targets, true = draw(60_000, 0.6, [0.2, -0.7, 0.9])
    found = fit(outputs, targets)
    assert found.scale == pytest.approx(0.6, abs=0.02)
    np.testing.assert_allclose(found.apply(outputs), true.apply(outputs), atol=0.02)


def conversion(before):
    """Return the calibration that changes only the prior, to the training prior."""
    bias = np.log(TRAINING) - np.log(before)
    return calibration.Calibration(scale=1.0, bias=dict(zip(CLASSES, bias.tolist(), strict=True)))


def test_without_images_to_the_contrary_it_changes_the_prior_and_nothing_else():
    outputs = draw(20, 1.0, [0, 0, 0])[0]
    for before in (EQUAL, TRAINING):
        found = conversion(before).apply(outputs)
        np.testing.assert_allclose(found, priors.change_prior(outputs, before, TRAINING))


def test_on_images_that_it_did_not_see_the_log_loss_falls():
    outputs, targets, _ = draw(1500, 0.5, [0.5, -0.5, 0.5])
    found = fit(outputs[:500], targets[:500]).apply(outputs[500:])
    before = priors.change_prior(outputs[500:], EQUAL, TRAINING)
    assert log_loss(targets[500:], found) < log_loss(targets[500:], before) - 0.02


def test_a_few_images_move_it_little():
    outputs, _, _ = draw(4, 1.0, [0, 0, 0])
    wrong = np.full(4, 1)
    start = conversion(EQUAL)
    found = fit(outputs, wrong)
    assert 0.3 < found.scale < 2
    assert max(abs(found.bias[name] - start.bias[name]) for name in CLASSES) < 2


def test_a_class_without_an_image_keeps_what_the_priors_ask_for():
    outputs, targets, _ = draw(300, 1.0, [0, 0, 0], seed=1)
    there = targets != 0
    found = fit(outputs[there], targets[there])
    assert np.isfinite(list(found.bias.values())).all()
    start = conversion(EQUAL)
    assert found.bias["bcc"] == pytest.approx(start.bias["bcc"], abs=1e-3)


def test_the_images_own_shares_of_the_classes_are_allowed_for():
    """Images of equally frequent classes teach the same posteriors under the training prior."""
    outputs, targets, true = draw(60_000, 0.8, [0.3, -0.4, 0.6], shares=EQUAL)
    np.testing.assert_allclose(fit(outputs, targets).apply(outputs), true.apply(outputs), atol=0.03)


def test_biases_are_put_in_the_order_of_the_classes_and_other_classes_are_refused():
    given = calibration.Calibration(scale=1.0, bias={"nv": 3.0, "bcc": 1.0, "mel": 2.0})
    assert list(given.of_classes(CLASSES).bias.items()) == [("bcc", 1.0), ("mel", 2.0), ("nv", 3.0)]
    with pytest.raises(
        ValueError, match="a calibration for the classes nv, bcc, mel; expected one for bcc, df"
    ):
        given.of_classes(["bcc", "df"])


def test_an_output_of_zero_is_a_small_one():
    found = conversion(EQUAL).apply(np.array([[0.0, 0.0, 1.0]]))
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (np.ones((2, 2)), r"shape \(2, 2\); expected \(n, 3\)"),
        (np.full((2, 3), np.nan), "expected finite values >= 0"),
        (np.full((2, 3), -0.1), "expected finite values >= 0; found -0.1"),
    ],
)
def test_outputs_that_are_no_probabilities_of_these_classes_are_refused(outputs, said):
    with pytest.raises(ValueError, match=said):
        conversion(EQUAL).apply(outputs)
    with pytest.raises(ValueError, match=said):
        fit(outputs, [0, 1])


@pytest.mark.parametrize(("n", "targets"), [(0, []), (2, [0])])
def test_other_numbers_of_outputs_and_targets_are_refused(n, targets):
    with pytest.raises(ValueError, match=f"{len(targets)} targets for {n} outputs"):
        fit(np.full((n, 3), 1 / 3), targets)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValidationError):
        calibration.Calibration(scale=scale, bias={"bcc": 0.0})
