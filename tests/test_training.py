"""Training: batches as they should be, scores by hand, the best epoch kept, the same twice."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from lib import config, models, paths, tables
from lib.evaluation import calibration
from lib.networks import (
    array_files,
    batching,
    building,
    devices,
    epoch_scores,
    inference,
    logit_adjustment,
    model_graph,
    optimizer,
    saving,
    training,
    vgg16,
)
from lib.networks.backend import keras, machine

CLASSES = ["bcc", "mel", "nv"]


def history_schema(classes):
    """Return the schema of `history.csv`: one row per epoch.

    Validation scores have the prefix `val_`. All scores but the loss are between 0 and 1; those
    without a class are means over the classes. A class without an image has no recall and no F1.
    `seconds` is the duration of the epoch, validation included; `kept` is true for the epoch whose
    weights `training.fit` keeps, one in each stage.
    """
    columns = {"epoch": pa.Column(int, pa.Check.ge(1), unique=True), "stage": pa.Column(str)}
    for name in epoch_scores.names(classes):
        is_of_class = name.endswith(tuple(f"_{label}" for label in classes))
        columns[name] = pa.Column(float, nullable=is_of_class)
    columns |= {"seconds": pa.Column(float), "kept": pa.Column(bool)}
    return pa.DataFrameSchema(columns, strict=True)


def small_model(seed=0, dropout=0.0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    x = keras.layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x), name="small")


@pytest.fixture
def batches():
    """Three classes that a small network can tell apart, as training and validation batches."""
    random = np.random.default_rng(1)
    targets = random.integers(3, size=90)
    inputs = (np.eye(4)[targets] * 3 + random.normal(size=(90, 4))).astype(np.float32)

    def make(rows, seed=None):
        return batching.Batches(inputs, rows, targets[rows], np.ones(3), 16, seed)

    return make(np.arange(60), seed=2), make(np.arange(60, 90))


def fit(model, batches, folder, **changes):
    settings = config.Stage(**{"epochs": 3, "learning_rate": 0.01} | changes)
    options = {"classes": CLASSES, "state": folder / "test.state.npz", "stage": "test"}
    return pd.DataFrame(training.fit(model, *batches, settings, **options))


# --------------------------------------------------------------------------------------- batches


def test_batches_serve_every_row_once_an_epoch():
    rows = np.arange(10, 33)
    batches = batching.Batches(np.arange(100), rows, rows % 3, np.ones(3), 8, seed=1)
    served = np.concatenate([batches[i][0] for i in range(len(batches))])
    assert sorted(served) == list(rows)
    assert list(served) != list(rows)


def test_batches_keep_the_order_without_a_seed_and_shuffle_anew_each_epoch_with_one():
    rows = np.arange(20)
    plain = batching.Batches(np.arange(20), rows, rows % 3, np.ones(3), 20)
    assert list(plain[0][0]) == list(rows)
    shuffled = batching.Batches(np.arange(20), rows, rows % 3, np.ones(3), 20, seed=1)
    first = list(shuffled[0][0])
    shuffled.start_epoch(1)
    assert first != list(shuffled[0][0])


def test_labels_and_weights_go_with_their_rows():
    rows = np.arange(12)
    batches = batching.Batches(np.arange(12), rows, rows % 3, [1.0, 2.0, 4.0], 5, seed=1)
    for inputs, labels, loss_weights in (batches[i] for i in range(len(batches))):
        np.testing.assert_array_equal(labels.argmax(axis=1), inputs % 3)
        np.testing.assert_array_equal(loss_weights, 2.0 ** (inputs % 3))


def test_each_epoch_draws_one_view_of_each_image():
    views = np.arange(30).reshape(3, 10).T  # image i lies in rows i, 10 + i and 20 + i
    batches = batching.Batches(np.arange(30), views, np.zeros(10, int), np.ones(3), 10, seed=1)
    drawn = set()
    for epoch in range(20):
        batches.start_epoch(epoch)
        served = batches[0][0]
        assert sorted(served % 10) == list(range(10))
        drawn |= set(served)
    assert drawn == set(range(30))


def test_balanced_sampling_draws_each_class_equally_often_and_rare_images_in_turn():
    targets = np.array([0] * 4 + [1] * 20 + [2] * 36)
    batches = batching.Batches(np.arange(60), np.arange(60), targets, np.ones(3), 60, 1, True)
    drawn = batches[0][0]
    assert np.bincount(targets[drawn]).tolist() == [20, 20, 20]
    assert np.bincount(drawn)[:24].tolist() == [5] * 4 + [1] * 20, "in turn, none left out"
    batches.start_epoch(1)
    assert set(batches[0][0][targets[batches[0][0]] == 2]) != set(drawn[targets[drawn] == 2])


def test_what_an_epoch_serves_depends_on_its_number_alone():
    rows = np.arange(40).reshape(2, 20).T
    gone_through = batching.Batches(np.arange(40), rows, np.arange(20) % 3, np.ones(3), 20, seed=1)
    for epoch in range(5):
        gone_through.start_epoch(epoch)
    jumped = batching.Batches(np.arange(40), rows, np.arange(20) % 3, np.ones(3), 20, seed=1)
    jumped.start_epoch(4)
    assert list(jumped[0][0]) == list(gone_through[0][0])


def test_several_inputs_are_served_together():
    inputs = [np.arange(10), np.arange(10).astype(np.float16) / 8]
    batches = batching.Batches(inputs, np.arange(10), np.zeros(10, int), np.ones(3), 4, seed=1)
    whole, half = batches[0][0]
    np.testing.assert_array_equal(whole / 8, half)
    assert half.dtype == np.float32


def test_a_batch_larger_than_the_data_is_the_data(batches, tmp_path):
    rows = np.arange(12)
    targets = batches[0].targets[rows]
    large = batching.Batches(batches[0].inputs, rows, targets, np.ones(3), 500, seed=1)
    assert len(large) == 1
    assert len(large[0][0]) == 12
    assert len(fit(small_model(), (large, batches[1]), tmp_path)) == 3


def test_batches_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no rows to serve"):
        batching.Batches(np.arange(3), [], [], np.ones(3), 8)


def test_outputs_are_posteriors_under_equal_priors_only_where_classes_are_balanced():
    prior = np.array([0.1, 0.4, 0.5])
    for class_balance in ("weights", "sampling"):
        np.testing.assert_allclose(batching.output_prior(prior, class_balance), [1 / 3] * 3)
    np.testing.assert_allclose(batching.output_prior(prior, "none"), prior)


@pytest.fixture
def small_run():
    """What the helpers of notebooks 03 and 04 need of a run: 8 images, 2 classes."""
    split = ["train", "test", "train", "validation", "train", "validation", "train", "validation"]
    index = pd.DataFrame({"split": split})
    return SimpleNamespace(
        index=index,
        rows=lambda name: np.flatnonzero(index["split"] == name),
        held_out=index[index["split"] != "train"],
        classes=["a", "b"],
        targets=np.array([0, 0, 1, 0, 1, 1, 1, 1]),
        class_prior=np.array([0.25, 0.75]),
        images=np.arange(8),
    )


def test_a_split_is_served_from_images_and_from_cached_views_alike(small_run):
    settings = SimpleNamespace(batch_size=3, class_balance="weights")
    plain = batching.split_batches(small_run, "validation", small_run.images, settings)
    assert plain[0][0].tolist() == [3, 5, 7]
    assert plain[0][1].tolist() == [[1, 0], [0, 1], [0, 1]]
    np.testing.assert_allclose(plain.loss_weights, [4 / 2, 4 / 6])
    views = np.arange(8)  # two views of the four training images
    train = batching.split_batches(small_run, "train", [views, views], settings, "sampling", seed=1)
    assert train.rows.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert train.balanced
    np.testing.assert_allclose(train.loss_weights, 1)
    validation = batching.split_batches(small_run, "validation", np.arange(3), settings, "sampling")
    assert not validation.balanced


def test_calibration_is_fitted_on_validation_images_and_added_to_the_manifest(small_run, tmp_path):
    saving.write_manifest(tmp_path / "vgg16", "manifest_frozen")
    small_run.folder = tmp_path
    settings = SimpleNamespace(name="vgg16", class_balance="weights")
    model = models.Model("vgg16_frozen", "VGG16, frozen", settings, "frozen")
    random = np.random.default_rng(1)
    outputs = random.dirichlet([1, 1], size=4)  # rows 1, 3, 5 and 7; row 1 is a test image
    posteriors = saving.calibrate(small_run, model, outputs)
    expected = calibration.fit(
        outputs[1:], [0, 1, 1], np.array([0.5, 0.5]), small_run.class_prior, small_run.classes
    )
    np.testing.assert_array_equal(posteriors, expected.apply(outputs))
    manifest = json.loads((tmp_path / "vgg16" / "manifest_frozen.json").read_text())
    assert manifest["calibration"] == expected.model_dump()


def test_the_last_layers_are_trained_from_images_and_from_cached_features_alike(
    small_run, tmp_path
):
    """Without random layers before them, both ways give the same weights."""
    small_run.images = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    small_run.config = SimpleNamespace(seed=7)
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="last")(hidden))
    first = model.get_weights()
    features = inference.forward(keras.Model(inputs, hidden), small_run.images)
    cached = {split: features[small_run.rows(split)] for split in ("train", "validation")}
    settings = SimpleNamespace(batch_size=2, class_balance="weights")
    stage, trained = config.Stage(epochs=2, learning_rate=0.1), []
    for name, source in {"images": small_run.images, "features": cached}.items():
        model.set_weights(first)
        options = {"state": tmp_path / f"{name}.state.npz", "stage": "last layer"}
        options |= {"first_layer": "last", "stage_settings": stage, "verbose": False}
        history = training.fit_run(small_run, model, source, settings, **options)
        assert [row["epoch"] for row in history] == [1, 2]
        trained.append(model.get_weights())
    for one, other in zip(*trained, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    assert [np.array_equal(*pair) for pair in zip(trained[0], first, strict=True)] == [
        *(True, True, False, False)
    ]


def test_balanced_weights_make_classes_count_the_same():
    targets = np.array([0] * 2 + [1] * 8 + [2] * 10)
    weights = batching.class_weights(targets, 3, "weights")
    np.testing.assert_allclose(weights * np.bincount(targets), [20 / 3] * 3)
    np.testing.assert_array_equal(batching.class_weights(targets, 3, "none"), 1)


# ---------------------------------------------------------------------------------------- scores


def test_scores_agree_with_scikit_learn():
    random = np.random.default_rng(3)
    actual, probabilities = random.integers(3, size=50), random.random((50, 3))
    scores = epoch_scores.Scores(CLASSES)
    for part in np.split(np.arange(50), [20, 35]):
        scores.update_state(np.eye(3)[actual[part]], probabilities[part])
    result = {name: float(value) for name, value in scores.result().items()}
    predicted = probabilities.argmax(axis=1)
    expected = {"balanced_accuracy": balanced_accuracy_score(actual, predicted)}
    for average in ("macro", None):
        values = precision_recall_fscore_support(actual, predicted, average=average)
        for score, value in zip(("precision", "recall", "f1"), values, strict=False):
            if average:
                expected[score] = value
            else:
                expected |= {f"{score}_{name}": value[i] for i, name in enumerate(CLASSES)}
    assert result == pytest.approx(expected, abs=1e-6)


def test_scores_are_those_of_the_rule_of_equal_priors_whatever_the_outputs_are_under():
    outputs = np.array([[0.85, 0.15], [0.95, 0.05]])  # under shares of 0.9 and 0.1
    actual = np.eye(2)[[1, 0]]
    as_they_are, corrected = (
        epoch_scores.Scores(["nv", "mel"]),
        epoch_scores.Scores(["nv", "mel"], [0.9, 0.1]),
    )
    for scores in (as_they_are, corrected):
        scores.update_state(actual, outputs)
    assert float(as_they_are.result()["recall_mel"]) == 0
    assert float(corrected.result()["recall_mel"]) == 1, "0.15 / 0.1 is more than 0.85 / 0.9"
    assert float(corrected.result()["balanced_accuracy"]) == 1


def test_a_class_that_is_never_predicted_has_precision_zero():
    scores = epoch_scores.Scores(["mel", "nv"])
    scores.update_state(np.eye(2)[[0, 0, 1, 1]], np.array([[1.0, 0.0]] * 4))
    result = {name: float(value) for name, value in scores.result().items()}
    assert result["precision"] == pytest.approx((0.5 + 0) / 2)
    assert result["precision_nv"] == 0
    assert result["recall"] == pytest.approx((1 + 0) / 2)


def test_a_class_missing_in_validation_has_no_recall_and_is_left_out_of_the_means(
    batches, tmp_path
):
    train, validation = batches
    rows = np.arange(60, 90)[validation.targets != 2]
    targets = validation.targets[validation.targets != 2]
    without = batching.Batches(validation.inputs, rows, targets, np.ones(3), 16)
    history = fit(small_model(), (train, without), tmp_path)
    assert history["val_recall_nv"].isna().all()
    assert history["val_f1_nv"].isna().all()
    mean = history[["val_recall_bcc", "val_recall_mel"]].mean(axis=1)
    np.testing.assert_allclose(history["val_balanced_accuracy"], mean, rtol=1e-6)
    assert history["recall_nv"].notna().all()


# --------------------------------------------------------------------------------------- fitting


def test_the_history_has_every_score_of_every_epoch(batches, tmp_path, capsys):
    history = fit(small_model(), batches, tmp_path)
    assert history["epoch"].tolist() == [1, 2, 3]
    assert set(history_schema(CLASSES).columns) == set(history)
    assert {"val_recall_mel", "f1_bcc", "val_f1"} <= set(history)
    assert history["val_balanced_accuracy"].iloc[-1] > 1 / 3
    assert len(capsys.readouterr().out.splitlines()) == 3


def predicted_classes(model, validation):
    inputs = np.concatenate([validation[i][0] for i in range(len(validation))])
    return inference.forward(model, inputs).argmax(axis=1)


def test_the_model_ends_with_the_weights_of_the_best_validation_epoch(batches, tmp_path):
    model = small_model()
    history = fit(model, batches, tmp_path, epochs=8, learning_rate=0.05)
    score = balanced_accuracy_score(batches[1].targets, predicted_classes(model, batches[1]))
    assert score == pytest.approx(
        history.loc[history["kept"], "val_balanced_accuracy"].item(), abs=1e-6
    )
    assert score == pytest.approx(history["val_balanced_accuracy"].max(), abs=1e-6)


def test_trained_weights_end_as_values_of_half_precision(batches, tmp_path):
    model = small_model()
    fit(model, batches, tmp_path)
    for weight in model.get_weights():
        np.testing.assert_array_equal(weight, weight.astype(np.float16))


def test_two_runs_from_one_seed_end_with_the_same_weights(batches, tmp_path):
    digests = []
    for attempt in "ab":
        training.set_seed(4)
        model = small_model(seed=4)
        fit(model, batches, tmp_path / attempt)
        digests.append(model_graph.weights_digest(model))
    assert digests[0] == digests[1]


def test_the_learning_rate_rises_in_the_warm_up_and_falls_to_zero_along_a_cosine():
    settings = config.Stage(epochs=5, learning_rate=0.1, schedule="cosine", warmup_epochs=1)
    rate = training._learning_rate(settings, steps=10)
    course = [float(rate(step)) for step in (0, 5, 10, 30, 50)]
    assert course == pytest.approx([0, 0.05, 0.1, 0.05, 0], abs=1e-6)


def stepped(adam, gradients):
    """Return the values of two variables, 1 and 2 at first, after each step."""
    variables = [keras.Variable(np.float32([value])) for value in (1, 2)]
    adam.build(variables)
    values = []
    for gradient in gradients:
        adam.apply([keras.ops.convert_to_tensor([np.float32(gradient)])] * 2, variables)
        values.append([float(variable[0]) for variable in variables])
    return np.array(values), variables


def test_without_options_the_optimiser_is_keras_s_adam():
    gradients = [0.5, -1.0, 3.0]
    ours, _ = stepped(optimizer.AdamW(0.1, [1.0, 1.0]), gradients)
    keras_s, _ = stepped(keras.optimizers.Adam(0.1), gradients)
    np.testing.assert_array_equal(ours, keras_s)


def test_a_factor_scales_the_step_of_its_variable_and_its_weight_decay():
    """The first step of Adam is the learning rate; scaling the gradient would not change it."""
    values, _ = stepped(optimizer.AdamW(0.1, [1.0, 0.25], decay=0.5), [3.0])
    np.testing.assert_allclose(
        values[0], [1 - 0.1 * 0.5 - 0.1, 2 - 0.025 * 0.5 * 2 - 0.025], rtol=1e-5
    )


def test_with_equal_factors_weight_decay_is_that_of_keras_s_adamw():
    gradients = [0.5, -1.0, 3.0]
    ours, _ = stepped(optimizer.AdamW(0.1, [1.0, 1.0], decay=0.3), gradients)
    keras_s, _ = stepped(keras.optimizers.AdamW(0.1, weight_decay=0.3), gradients)
    np.testing.assert_allclose(ours, keras_s, rtol=1e-6)


def test_gradients_are_clipped_by_their_norm_over_all_variables():
    clipped, _ = stepped(optimizer.AdamW(0.1, [1.0, 1.0], clip_norm=0.5), [300.0, 0.1])
    scaled, _ = stepped(optimizer.AdamW(0.1, [1.0, 1.0]), [0.5 / np.sqrt(2), 0.1])
    np.testing.assert_allclose(clipped, scaled, rtol=1e-5)


def test_the_momentum_of_the_average_rises_from_zero():
    adam = optimizer.AdamW(0.1, [1.0, 1.0], average=0.9)
    values, variables = stepped(adam, [1.0] * 4)
    expected = values[0]
    for n in (1, 2, 3):
        momentum = n / (n + 9)
        expected = momentum * expected + (1 - momentum) * values[n]
    adam.finalize_variable_values(variables)
    np.testing.assert_allclose([float(each[0]) for each in variables], expected, rtol=1e-5)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_an_averaged_training_validates_and_ends_with_the_averages(batches, tmp_path, keep):
    model, first = small_model(), small_model().get_weights()
    changes = {"epochs": 4, "average": 0.95, "weight_decay": 0.01, "clip_norm": 1.0, "keep": keep}
    history = fit(model, batches, tmp_path, **changes)
    kept = history[history["kept"]]
    assert len(kept) == 1
    best = history["val_balanced_accuracy"].idxmax()
    assert kept.index[0] == (3 if keep == "last" else best)
    score = balanced_accuracy_score(batches[1].targets, predicted_classes(model, batches[1]))
    assert score == pytest.approx(kept["val_balanced_accuracy"].item(), abs=1e-6)
    inputs = np.concatenate([batches[1][i][0] for i in range(len(batches[1]))])
    answers = inference.forward(model, inputs)[np.arange(30), batches[1].targets]
    assert kept["val_loss"].item() == pytest.approx(-np.log(answers).mean(), abs=2e-3)
    without = small_model()
    other = fit(without, batches, tmp_path / "without", **changes | {"average": 0.0})
    assert abs(other["val_loss"] - history["val_loss"]).min() > 0.01
    moved = [
        sum(np.abs(now - then).sum() for now, then in zip(each.get_weights(), first, strict=True))
        for each in (model, without)
    ]
    assert moved[0] < moved[1], "an average lags behind"


def test_logit_adjustment_multiplies_the_outputs_by_the_prior_in_the_loss():
    """Cross-entropy of the posteriors that follow from the outputs under that prior."""
    prior, outputs = np.array([0.1, 0.2, 0.7]), np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    actual = np.eye(3)[[0, 2]]
    posteriors = outputs * prior / (outputs * prior).sum(axis=1, keepdims=True)
    expected = -np.log(posteriors[[0, 1], [0, 2]])
    loss = logit_adjustment.LogitAdjusted(prior)
    found = loss(np.float32(actual), keras.ops.convert_to_tensor(np.float32(outputs)))
    assert float(found) == pytest.approx(expected.mean(), rel=1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.prior == loss.prior


def test_a_logit_adjusted_network_in_bfloat16_is_kept_in_float32(batches, tmp_path):
    with devices.policy("bfloat16"):
        model = small_model()
    settings = config.Stage(epochs=1, learning_rate=0.01)
    options = {"classes": CLASSES, "state": tmp_path / "a.state.npz", "stage": "a"}
    training.fit(model, *batches, settings, loss_prior=[0.2, 0.3, 0.5], **options)
    exact = model_graph.in_float32(model)
    assert model_graph.number_formats(exact) == ["float32"]
    assert model_graph.weights_digest(exact) == model_graph.weights_digest(model)


def test_a_logit_adjusted_network_answers_under_equal_priors(tmp_path):
    """Two classes whose values overlap, nine to one: at equal densities it says one half."""
    random = np.random.default_rng(1)
    targets = (random.random(3000) < 0.1).astype(int)
    inputs = (random.normal(size=(3000, 1)) + 2 * targets[:, None]).astype(np.float32)
    batches = [
        batching.Batches(inputs, rows, targets[rows], np.ones(2), 100, seed)
        for rows, seed in ((np.arange(2000), 1), (np.arange(2000, 3000), None))
    ]
    answers = {}
    for name, prior in {"adjusted": [0.9, 0.1], "plain": None}.items():
        keras.utils.set_random_seed(1)
        x = keras.Input((1,))
        model = keras.Model(x, keras.layers.Dense(2, activation="softmax")(x))
        options = {"classes": ["a", "b"], "state": tmp_path / f"{name}.state.npz", "stage": "a"}
        settings = config.Stage(epochs=15, learning_rate=0.05)
        training.fit(model, *batches, settings, loss_prior=prior, **options, verbose=False)
        answers[name] = inference.forward(model, np.float32([[1.0]]))[0, 1]
    assert answers["adjusted"] == pytest.approx(0.5, abs=0.08)
    assert answers["plain"] == pytest.approx(0.1, abs=0.05)
    np.testing.assert_allclose(batching.output_prior(np.array([0.9, 0.1]), "logit_adjusted"), 0.5)


def test_the_learning_rate_falls_from_block_to_block_and_the_head_has_its_own(run):
    settings = run.model("vgg16")
    stage = {"learning_rate": 0.001, "head_learning_rate": 0.01, "block_decay": 0.5}
    fine_tune = settings.fine_tune.model_copy(update=stage)
    settings = settings.model_copy(update={"fine_tune": fine_tune})
    model = vgg16.vgg16_transfer(64, 3, settings, None, 1)
    rates = vgg16.learning_rates(model, settings)
    expected = {f"block{i}_conv1": 0.5 ** (5 - i) for i in (1, 2, 3, 4, 5)}
    expected |= {"block5_conv3": 1.0, "dense": 10.0, "probabilities": 10.0}
    assert {name: rates[name] for name in expected} == pytest.approx(expected)
    _, top = model_graph.split_before(model, "block4_conv1")
    found = vgg16.learning_rates(top, settings)
    assert found["block4_conv1"] == 0.5
    change = {"backbone": "EfficientNetB0", "feature_layers": ["top_activation"], "input_size": 64}
    change["fine_tune"] = fine_tune.model_copy(update={"from_layer": "block7a_expand_conv"})
    settings = settings.model_copy(update=change)
    rates = vgg16.learning_rates(vgg16.vgg16_transfer(64, 3, settings, None, 1), settings)
    expected = {"stem_conv": 1 / 16, "block1a_se_reduce": 1 / 16, "block6b_se_expand": 1.0}
    expected |= {"top_conv": 1.0, "block5a_project_conv": 0.5, "dense": 10.0}
    assert {name: rates[name] for name in expected} == pytest.approx(expected)


def test_constants_in_a_network_are_described_alike_by_every_backend():
    """Otherwise a training of another backend would never be found to be the same."""
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, vgg16.expected_input("VGG16", inputs))
    described = []
    monkey, usual = pytest.MonkeyPatch(), model_graph.digest_of
    with monkey.context() as patch:
        patch.setattr(model_graph, "digest_of", lambda text: described.append(text) or usual(text))
        model_graph.layers_digest(model)
    text = json.dumps(described, default=lambda value: "no JSON")
    assert "-103.9" in text, "plain numbers, which JSON can hold by itself"


def test_a_warm_up_as_long_as_the_training_is_refused():
    with pytest.raises(ValueError, match="warmup_epochs = 3 must be less than epochs = 3"):
        config.Stage(epochs=3, learning_rate=0.1, warmup_epochs=3, schedule="cosine")


def test_a_warm_up_without_a_course_to_lead_into_is_refused():
    with pytest.raises(ValueError, match="warmup_epochs = 1 needs schedule = cosine"):
        config.Stage(epochs=3, learning_rate=0.1, warmup_epochs=1)


class Spoiled(batching.Batches):
    """Batches whose weights in the loss are no numbers from the third epoch on."""

    def __getitem__(self, batch):
        inputs, labels, loss_weights = super().__getitem__(batch)
        return inputs, labels, loss_weights * (np.nan if self.epoch >= 2 else 1)


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_best_weights(batches, tmp_path):
    model, (train, validation) = small_model(), batches
    rows = np.arange(60)
    spoiled = Spoiled(train.inputs, rows, train.targets, np.ones(3), 16, seed=2)
    with pytest.raises(
        ValueError, match=r"test: the loss is nan in epoch 3; .* of epoch \d, are in"
    ):
        fit(model, (spoiled, validation), tmp_path, epochs=6)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    _, note = array_files.read_arrays(tmp_path / "test.state.npz")
    best = max(row["val_balanced_accuracy"] for row in note["rows"])
    assert len(note["rows"]) == 2
    score = balanced_accuracy_score(validation.targets, predicted_classes(model, validation))
    assert score == pytest.approx(best, abs=1e-6)


def test_a_loss_that_is_no_number_at_once_says_that_nothing_is_kept(batches, tmp_path):
    model = small_model()
    model.layers[-1].bias.assign([np.nan] * 3)
    with pytest.raises(ValueError, match="test: the loss is nan in epoch 1; no epoch was"):
        fit(model, batches, tmp_path)


def test_a_validation_loss_that_is_no_number_stops_it_too(batches, tmp_path):
    train, validation = batches
    spoiled = Spoiled(validation.inputs, validation.rows, validation.targets, np.ones(3), 16)
    spoiled.epoch = 2
    with pytest.raises(
        training.NaNLossError, match="test: the validation loss is nan in epoch 1; no epoch was"
    ):
        fit(small_model(), (train, spoiled), tmp_path)


# ------------------------------------------------------------------------- killed and gone on with

#: Trains a network with random layers, and dies in an epoch, where it is told to.
CHILD = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pandas as pd
from lib import config
from lib.networks import batching, building, model_graph, training
from lib.networks.backend import keras

file, die_in, where = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
training.set_seed(3)
settings = config.load_config("configs/demo.yaml").baseline.model_copy(
    update={"options": {"filters": [4] * 8, "dense_units": [8, 8]}, "epochs": 4,
            "schedule": "cosine", "warmup_epochs": 0.5, "weight_decay": 0.02, "clip_norm": 5.0,
            "average": 0.9, "keep": "last"}
)
colours = config.ColorJitter(brightness=0.1, contrast=0.2, saturation=0.2, channels=0.06)
augmentation = config.Augmentation(
    rotation_degrees=180, zoom=0.2, flip="horizontal", shear=0.1, shift=0.05, aspect=0.1,
    color_jitter=colours,
)
model = building.build(settings, 256, 3, augmentation, seed=1)
random = np.random.default_rng(1)
images = random.integers(0, 256, (24, 256, 256, 3), dtype=np.uint8)


def die(here):
    if here == where and train.epoch == die_in - 1:
        os.kill(os.getpid(), signal.SIGKILL)


class Training(batching.Batches):
    def __getitem__(self, batch):
        if batch == 2:
            die("training")
        return super().__getitem__(batch)


class Validation(batching.Batches):
    def __getitem__(self, batch):
        die("validation")
        return super().__getitem__(batch)


def replace(*names, usual=os.replace):
    die("writing")  # the new state is there under its temporary name
    usual(*names)


os.replace = replace
targets = np.arange(24) % 3
train = Training(images, np.arange(18), targets[:18], np.ones(3), 6, seed=5, balanced=True)
validation = Validation(images, np.arange(18, 24), targets[18:], np.ones(3), 6)
history = training.fit(
    model, train, validation, settings, classes=["a", "b", "c"], state=file, stage="test"
)
history = pd.DataFrame(history).drop(columns="seconds")
print(model_graph.weights_digest(model), history.to_json())
"""


def child(file, die_in=0, where="nowhere"):
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(file), str(die_in), where],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
    )


def test_a_training_killed_thrice_ends_with_the_weights_of_an_unbroken_one(tmp_path):
    unbroken = child(tmp_path / "unbroken.state.npz")
    assert unbroken.returncode == 0, unbroken.stderr
    file = tmp_path / "broken.state.npz"
    for die_in, where in ((2, "training"), (3, "validation"), (4, "writing")):
        assert child(file, die_in, where).returncode == -signal.SIGKILL
        assert len(array_files.read_arrays(file)[1]["rows"]) == die_in - 1, "the finished epochs"
    assert child(file).stdout == unbroken.stdout


def test_a_training_that_has_ended_is_not_made_again(batches, tmp_path, monkeypatch):
    first = fit(small_model(), batches, tmp_path)
    model = small_model()
    monkeypatch.setattr(model, "fit", lambda *_, **__: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(fit(model, batches, tmp_path), first)


@pytest.mark.parametrize("damage", ["cut short", "altered", "not such a file"])
def test_a_damaged_state_is_named_and_the_training_starts_over(batches, tmp_path, capsys, damage):
    model = small_model()
    fit(model, batches, tmp_path)
    whole, file = model_graph.weights_digest(model), tmp_path / "test.state.npz"
    contents = bytearray(file.read_bytes())
    if damage == "altered":
        contents[len(contents) // 3] ^= 255
    file.write_bytes({"cut short": contents[:-90], "altered": contents}.get(damage, b"nothing"))
    capsys.readouterr()
    again = small_model()
    fit(again, batches, tmp_path)
    said = capsys.readouterr().out
    assert "test.state.npz: " in said
    assert "damaged, so this training starts over" in said
    assert model_graph.weights_digest(again) == whole
    array_files.read_arrays(file)


@pytest.mark.parametrize("change", [{"learning_rate": 0.02}, {"epochs": 4}])
def test_the_state_of_another_training_is_not_gone_on_with(batches, tmp_path, capsys, change):
    fit(small_model(), batches, tmp_path)
    capsys.readouterr()
    fit(small_model(), batches, tmp_path, **change)
    assert (
        "test.state.npz is from another training or other versions, so this one starts anew"
        in capsys.readouterr().out
    )


def test_a_cell_that_was_interrupted_goes_on_when_it_is_run_again(
    batches, tmp_path, capsys, monkeypatch
):
    def interrupt(run, loss, name):
        if run.finished == 2 and name == "loss":
            raise KeyboardInterrupt

    unbroken, model = small_model(dropout=0.5), small_model(dropout=0.5)
    (tmp_path / "unbroken").mkdir()
    expected = fit(unbroken, batches, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(training._Training, "_check", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(model, batches, tmp_path)
    capsys.readouterr()
    found = fit(model, batches, tmp_path)
    assert "another training" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))
    assert model_graph.weights_digest(model) == model_graph.weights_digest(unbroken)


def test_a_cell_whose_training_has_ended_takes_it_as_it_is_when_it_is_run_again(
    batches, tmp_path, capsys
):
    model = small_model(dropout=0.5)
    first, before = fit(model, batches, tmp_path), (tmp_path / "test.state.npz").stat().st_mtime_ns
    digest = model_graph.weights_digest(model)
    capsys.readouterr()
    pd.testing.assert_frame_equal(fit(model, batches, tmp_path), first)
    assert "another training" not in capsys.readouterr().out
    assert (tmp_path / "test.state.npz").stat().st_mtime_ns == before
    assert model_graph.weights_digest(model) == digest


def test_a_snapshot_puts_back_weights_and_the_states_of_random_layers(batches, tmp_path):
    model = small_model(dropout=0.5)
    put_back = model_graph.snapshot(model)
    first = fit(model, batches, tmp_path)
    (tmp_path / "test.state.npz").unlink()
    put_back()
    again = fit(model, batches, tmp_path)
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), first.drop(columns="seconds"))


def two_blocks(joined=(0, 1), pool="mean"):
    """A network of two convolutions whose maps, before or after a pooling, are averaged."""
    inputs = keras.Input((8, 8, 3))
    convolved = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    maps = [convolved, keras.layers.AveragePooling2D(2)(convolved)]
    averages = [keras.layers.GlobalAveragePooling2D()(maps[i]) for i in joined]
    if pool == "flipped":
        averages[0] = keras.ops.flip(averages[0], axis=-1)
    return keras.Model(inputs, keras.layers.Concatenate()(averages))


def test_layers_put_together_otherwise_are_another_network():
    made = [two_blocks(), two_blocks((1, 0)), two_blocks((0, 0)), two_blocks(pool="flipped")]
    digests = [model_graph.layers_digest(each) for each in [*made, two_blocks()]]
    assert len(set(digests[:-1])) == 4
    assert digests[-1] == digests[0]


@pytest.mark.parametrize(
    "other",
    [
        ["block3_conv3", "block4_conv3", "block5_pool"],
        ["block4_pool", "block3_pool", "block5_pool"],
    ],
)
def test_features_of_other_blocks_are_another_network(run, other):
    digests = []
    for blocks in (["block3_pool", "block4_pool", "block5_pool"], other):
        settings = run.model("vgg16").model_copy(update={"feature_layers": blocks})
        model = vgg16.vgg16_transfer(64, 3, settings, run.augmentation, 1)
        frozen, _ = model_graph.split_before(model, "dense")
        digests.append([model_graph.layers_digest(each) for each in (frozen, model)])
    assert not set(digests[0]) & set(digests[1])


def test_another_number_format_is_another_training_and_another_name_is_not(
    batches, tmp_path, capsys
):
    assert len({model_graph.layers_digest(small_model()) for _ in range(2)}) == 1
    fit(small_model(), batches, tmp_path)
    with devices.policy("bfloat16"):
        fit(small_model(), batches, tmp_path)
    assert "is from another training" in capsys.readouterr().out


def test_what_another_backend_has_finished_is_used_and_what_it_has_begun_is_not(
    batches, tmp_path, capsys, monkeypatch
):
    """Whatever it began with: other backends draw other initial weights from a seed."""
    elsewhere = training.versions() | {"backend": "torch 2.8"}
    with monkeypatch.context() as patch:
        patch.setattr(training, "versions", lambda: elsewhere)
        finished = small_model(seed=1)
        expected = fit(finished, batches, tmp_path)
    model = small_model(seed=2)
    capsys.readouterr()
    pd.testing.assert_frame_equal(fit(model, batches, tmp_path), expected)
    assert "another training" not in capsys.readouterr().out
    assert model_graph.weights_digest(model) == model_graph.weights_digest(finished)
    arrays, note = array_files.read_arrays(tmp_path / "test.state.npz")
    array_files.write_arrays(tmp_path / "test.state.npz", arrays, note | {"last": None})
    fit(small_model(seed=2), batches, tmp_path)
    assert "is from another training" in capsys.readouterr().out


def test_a_second_stage_from_another_backend_is_used_only_after_the_same_first_stage(
    batches, tmp_path, capsys, monkeypatch
):
    options = {"classes": CLASSES, "state": tmp_path / "second.state.npz", "stage": "second"}
    settings = config.Stage(epochs=1, learning_rate=0.01)
    elsewhere = training.versions() | {"backend": "torch 2.8"}
    with monkeypatch.context() as patch:
        patch.setattr(training, "versions", lambda: elsewhere)
        training.fit(small_model(seed=1), *batches, settings, first_epoch=4, **options)
    capsys.readouterr()
    training.fit(small_model(seed=1), *batches, settings, first_epoch=4, **options)
    assert "is from another training" not in capsys.readouterr().out
    training.fit(small_model(seed=2), *batches, settings, first_epoch=4, **options)
    assert "is from another training" in capsys.readouterr().out


def test_a_training_with_other_versions_of_the_same_backend_starts_anew(
    batches, tmp_path, capsys, monkeypatch
):
    fit(small_model(), batches, tmp_path)
    usual = training.versions()
    monkeypatch.setattr(training, "versions", lambda: usual | {"keras": "0.1"})
    fit(small_model(), batches, tmp_path)
    assert "is from another training" in capsys.readouterr().out


def test_other_data_are_another_training(batches, tmp_path, capsys):
    fit(small_model(), batches, tmp_path)
    train, validation = batches
    other = batching.Batches(train.inputs + 1, np.arange(60), train.targets, np.ones(3), 16, 2)
    fit(small_model(), (other, validation), tmp_path)
    assert "is from another training" in capsys.readouterr().out


def test_a_twin_in_float32_keeps_the_statistics_that_a_network_normalises_by():
    images = np.random.default_rng(0).random((2, 4), np.float32)
    with devices.policy("bfloat16"):
        inputs = keras.Input((4,))
        layer = keras.layers.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[4.0] * 4)
        learnt = keras.layers.Normalization()
        half = keras.Model(inputs, learnt(layer(inputs)))
        learnt.set_weights([np.full(4, 5.0), np.full(4, 9.0), np.array(1)])
        learnt.finalize_state()
    found = inference.forward(model_graph.in_float32(half), images)
    expected = ((images - [1, 2, 3, 4]) / 2 - 5) / 3
    np.testing.assert_allclose(found, expected, atol=1e-6)


# ------------------------------------------------------------------------------------ prediction


def test_probabilities_add_up_to_one_in_double_precision():
    probabilities = inference.predict(small_model(), np.ones((5, 4), np.float32), batch_size=2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)


def test_there_are_eight_different_flips_and_quarter_turns_the_first_of_them_none():
    image = np.arange(9 * 3).reshape(1, 3, 3, 3)
    views = [inference.turned(image, view) for view in range(8)]
    assert len({view.tobytes() for view in views}) == 8
    np.testing.assert_array_equal(views[0], image)
    np.testing.assert_array_equal(views[1], image[:, :, ::-1])
    np.testing.assert_array_equal(views[2], image[:, ::-1, ::-1])
    np.testing.assert_array_equal(views[3], image[:, ::-1])


def test_logarithms_of_probabilities_are_averaged_over_test_time_views():
    inputs = keras.Input((4, 4, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    each = [inference.predict(model, inference.turned(images, view)) for view in range(4)]
    averaged = inference.predict(model, images, views=4)
    expected = np.exp(np.log(each).mean(axis=0))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(averaged, expected, atol=1e-6)
    turned = inference.predict(model, inference.turned(images, 3), views=4)
    np.testing.assert_allclose(averaged, turned, atol=1e-6)


# ----------------------------------------------------------------------------------------- files


def test_a_manifest_names_the_machine_that_finished_the_training(run, batches, tmp_path):
    model = small_model()
    history = fit(model, batches, tmp_path)
    folder, state = paths.run_folder(run.name) / "small", tmp_path / "test.state.npz"
    assert training.origin(state) == {}
    manifest = saving.save(model, folder, history, **training.origin(state))
    assert manifest["machine"] == machine()
    elsewhere = {
        "finished": "2026-01-01T00:00:00Z",
        "machine": "a server",
        "backend": "jax 1.0",
        "precision": "mixed_bfloat16",
    }
    tables.write_json(elsewhere, tmp_path / "test.state.json")
    manifest = saving.save(model, folder, history, **training.origin(state))
    assert manifest.items() >= elsewhere.items()
    assert manifest["keras"] == keras.__version__


def test_what_is_saved_is_read_back(run, batches, tmp_path):
    model = small_model()
    history = fit(model, batches, tmp_path)
    folder = paths.run_folder(run.name) / "small"
    manifest = saving.save(model, folder, history)
    loaded = saving.read_model(run, "small")
    rows = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(inference.predict(loaded, rows), inference.predict(model, rows))
    kept = tables.read_table(folder / "history.csv", history_schema(CLASSES))
    pd.testing.assert_frame_equal(kept, history)
    assert manifest["epochs"] == 3
    assert manifest["parameters"] == 4 * 8 + 8 + 8 * 3 + 3
    assert manifest["weights_sha256"] == model_graph.weights_digest(loaded)


def test_what_is_found_later_is_added_to_the_manifest(batches, tmp_path):
    model = small_model()
    manifest = saving.save(model, tmp_path, fit(model, batches, tmp_path))
    saving.add_to_manifest(tmp_path, calibration={"scale": 2.0})
    found = json.loads((tmp_path / "manifest.json").read_text())
    assert found == json.loads(json.dumps(manifest)) | {"calibration": {"scale": 2.0}}


def test_a_model_trained_in_half_the_bits_is_kept_in_float32(run, batches, tmp_path):
    with devices.policy("bfloat16"):
        model = small_model()
    history = fit(model, batches, tmp_path)
    folder = paths.run_folder(run.name) / "small"
    manifest = saving.save(model, folder, history)
    loaded = saving.read_model(run, "small")
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    assert manifest["precision"] == "mixed_bfloat16"
    for kept, trained in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, trained)


def test_every_network_in_half_the_bits_has_a_twin_in_float32():
    run = config.load_config("configs/demo.yaml")
    transfer = run.model("vgg16").model_copy(update={"input_size": 32})
    builders = {
        "baseline": lambda: building.build(run.baseline, 256, 3, run.augmentation, 1),
        "alexnet": lambda: building.build(run.model("alexnet"), 256, 3, run.augmentation, 1),
        "vgg16": lambda: vgg16.vgg16_transfer(256, 3, transfer, run.augmentation, 1),
    }
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    for name, builder in builders.items():
        with devices.policy("bfloat16"):
            half = builder()
        twin, reference = model_graph.in_float32(half), builder()
        reference.set_weights(half.get_weights())
        found, expected = inference.predict(twin, images), inference.predict(reference, images)
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)
        assert model_graph.weights_digest(twin) == model_graph.weights_digest(half)
    frozen, _ = model_graph.split_before(half, "dense")
    exact = inference.forward(model_graph.in_float32(frozen), images)
    whole = inference.forward(model_graph.split_before(reference, "dense")[0], images)
    np.testing.assert_allclose(exact, whole, atol=1e-5)


def test_a_history_without_a_column_is_refused(batches, tmp_path):
    file = tmp_path / "history.csv"
    fit(small_model(), batches, tmp_path).drop(columns="val_f1").to_csv(file, index=False)
    with pytest.raises(ValueError, match=r"(?s)history\.csv: .*no column val_f1"):
        tables.read_table(file, history_schema(CLASSES))


def test_a_missing_model_says_what_to_do(run):
    with pytest.raises(FileNotFoundError, match=r"model\.keras: no such file; run the notebook"):
        saving.read_model(run, "baseline_cnn")


def test_a_model_file_that_carries_code_is_refused(run, tmp_path):
    folder = paths.run_folder(run.name) / "foreign"
    folder.mkdir(parents=True)
    inputs = keras.Input((4,))
    outputs = keras.layers.Lambda(lambda x: x * 2)(inputs)
    keras.Model(inputs, outputs).save(folder / "model.keras")
    with pytest.raises(ValueError, match=r"model\.keras: not a model that can be used"):
        saving.read_model(run, "foreign")


@pytest.mark.parametrize("damage", ["not such a file", "cut short", "altered"])
def test_a_model_file_that_is_damaged_is_refused(run, damage):
    file = paths.run_folder(run.name) / "broken" / "model.keras"
    file.parent.mkdir(parents=True)
    small_model().save(file)
    contents = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as parts:
        weights_at = parts.getinfo("model.weights.h5")
        contents[weights_at.header_offset + weights_at.compress_size // 2] ^= 255
    damaged = {"cut short": contents[: len(contents) // 2], "altered": contents}
    file.write_bytes(damaged.get(damage, b"nothing"))
    with pytest.raises(ValueError, match=r"model\.keras: not a model that can be used"):
        saving.read_model(run, "broken")


def test_a_model_file_with_other_weights_than_its_manifest_names_is_refused(run, batches, tmp_path):
    folder, model = paths.run_folder(run.name) / "baseline_cnn", small_model()
    saving.save(model, folder, fit(model, batches, tmp_path))
    saving.read_model(run, "baseline_cnn")
    small_model(dropout=0.5).save(folder / "model.keras")
    with pytest.raises(ValueError, match=r"model\.keras: its manifest says weights_sha256 = \w+; "):
        saving.read_model(run, "baseline_cnn")


# ------------------------------------------------------------------------------ mapped files


def mapped_bytes():
    """Return how much of this process's memory is mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


@pytest.fixture
def mapped(tmp_path):
    """64 images of one MiB, memory-mapped, and not yet read."""
    file = tmp_path / "images.npy"
    np.save(file, np.arange(64, dtype=np.uint8).repeat(2**20).reshape(64, 1024, 1024))
    return np.load(file, mmap_mode="r")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says so")
def test_rows_of_a_mapped_file_do_not_stay_in_memory(mapped):
    rows = np.arange(64)
    batches = batching.Batches(mapped, rows, rows % 3, np.ones(3), 4, seed=1)
    before = mapped_bytes()
    for i in range(len(batches)):
        np.testing.assert_array_equal(batches[i][0][:, 0, 0], batches.order[4 * i : 4 * i + 4])
    assert mapped_bytes() - before < 2**24
    assert mapped.sum() > 0
    assert mapped_bytes() - before > 2**25, "read through the map, they do"


def test_rows_are_those_of_the_array_however_it_is_mapped(mapped, tmp_path):
    rows = np.array([6, 0, -3, 3])
    private = np.load(tmp_path / "images.npy", mmap_mode="c")
    private[6] = 200  # in memory, not in the file
    flat = np.memmap(tmp_path / "images.npy", np.uint8, "r")
    for array in (mapped, mapped[5:], mapped[:, ::2], private, flat, np.asarray(mapped)):
        values = array_files.read_rows(array, rows)
        np.testing.assert_array_equal(values, array[rows])
        assert not isinstance(values, np.memmap)
    with pytest.raises(IndexError):
        array_files.read_rows(mapped, [64])
