"""Training: batches as they should be, scores by hand, the best epoch kept, the same twice."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from lib import models, paths, training
from lib.backend import keras


def small_model(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x), name="small")


@pytest.fixture
def batches():
    """Three classes that a small network can tell apart, as training and validation batches."""
    random = np.random.default_rng(1)
    targets = random.integers(3, size=90)
    inputs = (np.eye(4)[targets] * 3 + random.normal(size=(90, 4))).astype(np.float32)

    def make(rows, seed=None):
        return training.Batches(inputs, rows, targets[rows], np.ones(3), 16, seed)

    return make(np.arange(60), seed=2), make(np.arange(60, 90))


def fit(model, batches, folder, **changes):
    options = {"epochs": 3, "learning_rate": 0.01, "stage": "test"} | changes
    return training.fit(model, *batches, checkpoint=folder / "best.weights.h5", **options)


# --------------------------------------------------------------------------------------- batches


def test_batches_serve_every_row_once_an_epoch():
    rows = np.arange(10, 33)
    batches = training.Batches(np.arange(100), rows, rows % 3, np.ones(3), 8, seed=1)
    served = np.concatenate([batches[i][0] for i in range(len(batches))])
    assert sorted(served) == list(rows)
    assert list(served) != list(rows)


def test_batches_keep_the_order_without_a_seed_and_shuffle_anew_each_epoch_with_one():
    rows = np.arange(20)
    plain = training.Batches(np.arange(20), rows, rows % 3, np.ones(3), 20)
    assert list(plain[0][0]) == list(rows)
    shuffled = training.Batches(np.arange(20), rows, rows % 3, np.ones(3), 20, seed=1)
    first = list(shuffled[0][0])
    shuffled.on_epoch_end()
    assert first != list(shuffled[0][0])


def test_labels_and_weights_go_with_their_rows():
    rows = np.arange(12)
    batches = training.Batches(np.arange(12), rows, rows % 3, [1.0, 2.0, 4.0], 5, seed=1)
    for inputs, labels, weights in (batches[i] for i in range(len(batches))):
        np.testing.assert_array_equal(labels.argmax(axis=1), inputs % 3)
        np.testing.assert_array_equal(weights, 2.0 ** (inputs % 3))


def test_each_epoch_draws_one_view_of_each_image():
    views = np.arange(30).reshape(3, 10).T  # image i lies in rows i, 10 + i and 20 + i
    batches = training.Batches(np.arange(30), views, np.zeros(10, int), np.ones(3), 10, seed=1)
    drawn = set()
    for _ in range(20):
        served = batches[0][0]
        assert sorted(served % 10) == list(range(10))
        drawn |= set(served)
        batches.on_epoch_end()
    assert drawn == set(range(30))


def test_balanced_weights_make_classes_count_the_same():
    targets = np.array([0] * 2 + [1] * 8 + [2] * 10)
    weights = training.class_weights(targets, 3, "balanced")
    np.testing.assert_allclose(weights * np.bincount(targets), [20 / 3] * 3)
    np.testing.assert_array_equal(training.class_weights(targets, 3, "none"), 1)


# ---------------------------------------------------------------------------------------- scores


def test_scores_agree_with_scikit_learn():
    random = np.random.default_rng(3)
    actual, probabilities = random.integers(3, size=50), random.random((50, 3))
    scores = training.MacroScores(3)
    for part in np.split(np.arange(50), [20, 35]):
        scores.update_state(np.eye(3)[actual[part]], probabilities[part])
    result = {name: float(value) for name, value in scores.result().items()}
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(actual, predicted, average="macro")
    expected = {"balanced_accuracy": recall, "precision": precision, "recall": recall, "f1": f1}
    assert result == pytest.approx(expected, abs=1e-6)
    assert result["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(actual, predicted))


def test_a_class_that_is_never_predicted_has_precision_zero():
    scores = training.MacroScores(2)
    scores.update_state(np.eye(2)[[0, 0, 1, 1]], np.array([[1.0, 0.0]] * 4))
    result = {name: float(value) for name, value in scores.result().items()}
    assert result["precision"] == pytest.approx((0.5 + 0) / 2)
    assert result["recall"] == pytest.approx((1 + 0) / 2)


# --------------------------------------------------------------------------------------- fitting


def test_the_history_has_every_score_of_every_epoch(batches, tmp_path, capsys):
    history = fit(small_model(), batches, tmp_path)
    assert history["epoch"].tolist() == [1, 2, 3]
    assert set(training.HISTORY_SCHEMA.columns) == set(history)
    assert history["val_balanced_accuracy"].iloc[-1] > 1 / 3
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_model_ends_with_the_weights_of_the_best_validation_epoch(batches, tmp_path):
    model = small_model()
    history = fit(model, batches, tmp_path, epochs=8, learning_rate=0.05)
    validation = batches[1]
    predicted = np.concatenate(
        [training.forward(model, validation[i][0]) for i in range(len(validation))]
    ).argmax(axis=1)
    score = balanced_accuracy_score(validation.targets, predicted)
    assert score == pytest.approx(training.best_epoch(history)["val_balanced_accuracy"], abs=1e-6)
    assert score == pytest.approx(history["val_balanced_accuracy"].max(), abs=1e-6)


def test_two_runs_from_one_seed_end_with_the_same_weights(batches, tmp_path):
    from lib import weights

    digests = []
    for _ in range(2):
        training.set_seed(4)
        inputs, rows = batches[0].inputs, np.arange(60)
        again = (training.Batches(inputs, rows, batches[0].targets, np.ones(3), 16, 2), batches[1])
        model = small_model(seed=4)
        fit(model, again, tmp_path)
        digests.append(weights.weights_digest(model))
    assert digests[0] == digests[1]


def test_a_loss_that_is_no_number_stops_the_training(batches, tmp_path):
    model = small_model()
    model.layers[-1].bias.assign([np.nan] * 3)
    with pytest.raises(ValueError, match="test: the loss is nan in epoch 1"):
        fit(model, batches, tmp_path)


def test_probabilities_add_up_to_one_in_double_precision():
    probabilities = training.predict(small_model(), np.ones((5, 4), np.float32), batch_size=2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)


# ------------------------------------------------------------------------------- cached features


def test_cached_features_are_those_of_the_plain_images_first_and_of_augmented_ones_after(tmp_path):
    from lib.config import Augmentation

    inputs = keras.Input((16, 16, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for layer in models.augmentation_layers(
        Augmentation(rotation_degrees=180, zoom=0.2, flip="horizontal"), seed=1
    ):
        x = layer(x)
    trunk = keras.Model(inputs, keras.layers.MaxPooling2D(4)(x))
    images = np.random.default_rng(1).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    rows = np.array([1, 4, 8])
    kept = training.cache_features(trunk, images, rows, tmp_path / "f.npy", views=3, batch_size=2)
    assert kept.shape == (9, 4, 4, 3)
    assert kept.dtype == np.float16
    plain = training.forward(trunk, images[rows])
    np.testing.assert_allclose(kept[:3], plain, atol=1e-3)
    assert not np.allclose(kept[3:6], plain, atol=1e-2)
    assert not np.allclose(kept[3:6], kept[6:], atol=1e-2)


# ----------------------------------------------------------------------------------------- files


def test_what_is_saved_is_read_back(run, batches, tmp_path):
    model = small_model()
    history = fit(model, batches, tmp_path)
    folder = paths.run_folder(run.name) / "small"
    manifest = training.save(model, folder, history, seconds=1.25)
    loaded = training.read_model(run, "small")
    rows = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(training.predict(loaded, rows), training.predict(model, rows))
    pd.testing.assert_frame_equal(training.read_history(run, "small"), history)
    assert manifest["epochs"] == 3
    assert manifest["parameters"] == 4 * 8 + 8 + 8 * 3 + 3


def test_a_history_without_a_column_is_refused(run, batches, tmp_path):
    folder = paths.run_folder(run.name) / "small"
    folder.mkdir()
    fit(small_model(), batches, tmp_path).drop(columns="val_f1").to_csv(
        folder / "history.csv", index=False
    )
    with pytest.raises(ValueError, match=r"(?s)history\.csv: .*no column val_f1"):
        training.read_history(run, "small")


def test_a_missing_model_says_what_to_do(run):
    with pytest.raises(FileNotFoundError, match=r"model\.keras: no such file; run the notebook"):
        training.read_model(run, "baseline_cnn")
