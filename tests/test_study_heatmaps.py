"""The sanity checks of heatmaps, each on maps and networks whose result is known."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import config
from lib.networks import baseline_cnn
from lib.networks.backend import keras
from studies import command, heatmaps

RANDOM = np.random.default_rng(7)


@pytest.fixture(scope="module")
def ramp():
    """A heatmap of 64 x 64 pixels that rises from the left to the right."""
    return np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))


@pytest.fixture(scope="module")
def bright_model():
    """A network that calls an image by class 1 as far as its left half is bright."""
    inputs = keras.Input((64, 64, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    light = keras.layers.Conv2D(1, 1, use_bias=False, name="light")(x)
    x = keras.layers.Flatten()(light)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax", name="probabilities")(x))
    model.get_layer("light").set_weights([np.full((1, 1, 3, 1), 1 / 3)])
    left = np.zeros((64, 64))
    left[:, :32] = 16 / 64**2
    weights = np.stack([np.zeros(64**2), left.ravel()], axis=1)
    model.get_layer("probabilities").set_weights([weights, np.array([4.0, 0.0])])
    return model


@pytest.fixture
def bright_left():
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[:, :, :32] = 255
    return image


# ------------------------------------------------------------------------------ comparing maps


def test_equal_and_opposite_maps_have_rank_correlations_of_1_and_minus_1(ramp):
    assert heatmaps.rank_correlation(ramp, ramp**3) == pytest.approx(1)
    assert heatmaps.rank_correlation(ramp, 1 - ramp) == pytest.approx(-1)


def test_a_map_without_structure_cannot_be_compared_and_resembles_nothing(ramp):
    nothing = np.zeros_like(ramp)
    assert np.isnan(heatmaps.rank_correlation(nothing, ramp))
    assert heatmaps.rank_correlation(ramp, nothing) == 0
    assert np.isnan(heatmaps.similarity(nothing, ramp))
    assert heatmaps.similarity(ramp, 5 * ramp) == pytest.approx(1, abs=1e-4)


# --------------------------------------------------------------------------- randomised weights


def test_the_cascade_redraws_from_the_output_down_and_single_layers_by_themselves():
    options = {"filters": [2] * 8, "dense_units": [3, 3]}
    model = baseline_cnn.baseline_cnn(256, 3, None, 0, **options)
    before = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
    seen = []
    for way, name, copy in heatmaps.randomised(model, seed=5):
        changed = {
            layer
            for layer, weights in before.items()
            if not np.array_equal(weights[0], copy.get_layer(layer).get_weights()[0])
        }
        seen.append((way, name, changed))
    names = [*(f"conv{i}" for i in range(1, 9)), "dense1", "dense2", "probabilities"]
    assert [name for way, name, _ in seen if way == "cascade"] == names[::-1]
    for way, name, changed in seen:
        expected = names[names.index(name) :] if way == "cascade" else [name]
        assert changed == set(expected)
    assert all(np.array_equal(b[0], model.get_layer(n).get_weights()[0]) for n, b in before.items())


# ------------------------------------------------------------------------------------ stability


def test_images_that_look_the_same_are_hardly_changed():
    images = RANDOM.integers(60, 180, (2, 64, 64, 3), dtype=np.uint8)
    moved = heatmaps.shifted(images)
    np.testing.assert_array_equal(moved[:, :, 1:], images[:, :, :-1])
    np.testing.assert_array_equal(moved[:, :, 0], images[:, :, 0])
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, None, :, None], (2, 64, 1, 3))
    for change in (heatmaps.compressed, heatmaps.noisy):
        difference = np.abs(change(smooth).astype(int) - smooth)
        assert 0 < difference.mean() < 3 and change(smooth).dtype == np.uint8


def test_images_are_compressed_as_another_encoder_would():
    """OpenCV's encoder takes the first channel for blue, not for red."""
    image = RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(image).save(file := io.BytesIO(), "JPEG", quality=80)
    np.testing.assert_array_equal(heatmaps.compressed(image[None])[0], np.asarray(Image.open(file)))


# ----------------------------------------------------------------------- deletion and insertion


def test_cells_are_ordered_by_their_heat_or_their_distance_to_the_centre(ramp):
    cells = heatmaps.CELLS
    assert set(heatmaps.cell_order(ramp)[:cells] % cells) == {cells - 1}, "the right column first"
    y, x = np.divmod(heatmaps.center_first(), cells)
    distance = np.hypot(y - (cells - 1) / 2, x - (cells - 1) / 2)
    assert (np.diff(distance) >= -1e-9).all()


def test_a_true_map_beats_random_order_and_a_wrong_one_does_not(bright_model, bright_left):
    """The left half counts. Deleted first it lowers the probability at once, inserted it raises."""
    scores = heatmaps.gradcam.before_softmax(bright_model)
    left_first = heatmaps.cell_order(bright_left[0, ..., 0].astype(np.float32))
    orders = {"true": left_first, "wrong": left_first[::-1]}
    orders["random"] = RANDOM.permutation(heatmaps.CELLS**2)
    found = {}
    for name, order in orders.items():
        values = heatmaps.curves(scores, bright_left, [1], [order])
        for direction in ("deletion", "insertion"):
            points = [values[direction, f"{p:g}"] for p in heatmaps.PROPORTIONS]
            found[name, direction] = heatmaps.areas(pd.DataFrame(np.transpose(points))).item()
    for direction, sign in {"deletion": -1, "insertion": 1}.items():
        gains = {n: sign * (found[n, direction] - found["random", direction]) for n in orders}
        assert gains["true"] > 0.05 > 0 > gains["wrong"]


def test_a_curve_goes_from_the_image_to_its_mean_colour_and_back(bright_model, bright_left):
    scores, order = heatmaps.gradcam.before_softmax(bright_model), heatmaps.center_first()
    away, back = (heatmaps.curve(scores, bright_left[0], 1, order, insert) for insert in (0, 1))
    whole = bright_model(bright_left)[0, 1].numpy()
    assert [away[0], back[-1]] == pytest.approx([whole, whole], abs=1e-5)
    assert away[-1] == pytest.approx(back[0]) and away[-1] < away[0]


# -------------------------------------------------------------------------------------- sticker


def test_a_sticker_is_one_square_of_one_colour_in_each_image():
    images = np.zeros((3, 256, 256, 3), np.uint8)
    marked, masks = heatmaps.with_sticker(images, np.arange(3))
    assert masks.sum(axis=(1, 2)).tolist() == [heatmaps.STICKER**2] * 3
    assert (marked[masks] == heatmaps.STICKER_COLOR).all() and not marked[~masks].any()
    assert not images.any(), "the originals are left alone"


def test_the_place_of_a_sticker_depends_on_the_image_and_not_on_the_others():
    """Drawn anew for each part of the images, stickers would have the same few places."""
    images = np.zeros((20, 256, 256, 3), np.uint8)
    _, masks = heatmaps.with_sticker(images, np.arange(20))
    assert len({mask.tobytes() for mask in masks}) == 20
    _, part = heatmaps.with_sticker(images[:3], np.array([7, 0, 11]))
    assert (part == masks[[7, 0, 11]]).all()


# ---------------------------------------------------------------------------- results, verdicts


@pytest.fixture
def small_run(run, tmp_path, monkeypatch):
    """A run of four test images, and an empty folder of results."""
    ids = ["a", "b", "c", "d"]
    index = pd.DataFrame({"image_id": ids, "lesion_id": ids, "group_id": ids, "fold": 0})
    index = index.assign(label=["mel", "nv", "mel", "nv"], split="test")
    monkeypatch.setattr(command, "results_folder", lambda study: tmp_path)

    class Stub:
        config = run

    Stub.index = index
    return Stub


def network_of(run):
    return next(iter(run.config.heatmaps.layers))


def test_what_is_measured_is_read_again_and_only_the_rest_is_missing(small_run):
    results, rows = heatmaps.Results(small_run), np.arange(4)
    results.add("stability", "cnn", "Grad-CAM", rows[:2], {("SSIM", "noise"): [0.5, 0.7]})
    again = heatmaps.Results(small_run)
    assert again.missing("stability", "cnn", "Grad-CAM", rows).tolist() == [2, 3]
    assert again.missing("stability", "cnn", "HiResCAM", rows).tolist() == [0, 1, 2, 3]
    assert again.of("stability", "cnn", "Grad-CAM").to_dict() == {
        "SSIM noise": {"a": 0.5, "b": 0.7}
    }


def test_results_of_other_settings_are_measured_again(small_run):
    heatmaps.Results(small_run).add("stability", "cnn", "Grad-CAM", np.arange(2), {"x": [1, 2]})
    small_run.index = small_run.index.assign(fold=1)
    heatmaps.Results(small_run).add("passes", "cnn", "Grad-CAM", np.arange(1), {"x": [1]})
    assert (
        len(heatmaps.Results(small_run).missing("stability", "cnn", "Grad-CAM", np.arange(4))) == 4
    )


def test_verdicts_compare_means_and_intervals_with_limits_that_were_fixed(small_run):
    results, rows, network = heatmaps.Results(small_run), np.arange(4), network_of(small_run)
    columns = {f"cascade rank correlation {layer}": [0.9] * 4 for layer in ("out", "conv1")}
    columns["cascade rank correlation conv1"] = [0.1, 0.2, 0.3, 0.2]
    columns["single rank correlation conv1"] = [0.9] * 4
    results.add("randomised", network, "Grad-CAM", rows, columns)
    results.add("stability", network, "Grad-CAM", rows, {"rank correlation shifted": [0.8] * 4})
    flat = {
        f"{d} {p:g}": [0.5] * 4 for d in ("deletion", "insertion") for p in heatmaps.PROPORTIONS
    }
    results.add("scores", network, heatmaps.RANDOM, rows, flat)
    better = {"mass inside": [0.5, 0.4, 0.5, np.nan]} | flat
    better |= {"deletion 0.3": [0.1, 0.1, 0.2, 0.9], "insertion 0.3": [0.4] * 4}
    results.add("scores", network, "Grad-CAM", rows, better)
    results.add("sticker", "sticker", "occlusion", rows, {"share": [4.0, 5, 6, np.nan]})
    decided = {row["check"]: row for row in heatmaps.verdicts(results)}
    passed = {check: row["passed"] for check, row in decided.items()}
    assert passed == {
        "randomised weights": True,
        "shift by a pixel": False,
        "deletion": True,
        "insertion": False,
        "sticker": True,
    }
    assert decided["randomised weights"]["value"] == pytest.approx(0.2), "of all weights"
    assert decided["deletion"]["images"] == 3, "a map that is zero everywhere has no order"
    assert decided["sticker"]["value"] == pytest.approx(3.75), "and shows no sticker"


def test_the_order_from_the_centre_is_an_opponent_without_a_verdict(small_run):
    results, rows, network = heatmaps.Results(small_run), np.arange(4), network_of(small_run)
    areas = {f"{d} {p:g}": [p] * 4 for d in ("deletion", "insertion") for p in heatmaps.PROPORTIONS}
    results.add("scores", network, heatmaps.CENTER, rows, areas)
    lower = {name: [value / 2 for value in values] for name, values in areas.items()}
    results.add("scores", network, "occlusion", rows, {"mass inside": [0.5] * 4} | lower)
    assert {row["direction"]: row["value"] for row in heatmaps.against_centre(results)} == {
        "deletion": 0.25,
        "insertion": -0.25,
    }


def test_few_images_have_students_interval(small_run):
    """Lesions drawn within classes leave an image that is alone in its class as it is."""
    values = pd.Series([0.1, 0.2, 0.3, 0.4], ["a", "b", "c", "d"])
    found = heatmaps.mean_with_interval(small_run, values)
    half = 3.182446 * values.std() / 2
    assert found["images"] == 4 and found["value"] == pytest.approx(0.25)
    assert [found["low"], found["high"]] == pytest.approx([0.25 - half, 0.25 + half], abs=1e-5)


def test_the_committed_measurements_are_those_that_their_verdicts_follow_from():
    """The limits as well: they were fixed before anything was measured."""
    folder = command.results_folder("heatmaps")
    notes = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")]
    assert notes
    for note in notes:
        run = config.load_config(f"configs/{note['run']}.yaml")
        assert {row["method"] for row in note["verdicts"]} == set(heatmaps.METHODS)
        for row in note["verdicts"]:
            assert row["limit"] == heatmaps.LIMITS[row["check"]]
            assert row["passed"] == heatmaps.passes(row["check"], row)
            assert row["network"] in (*run.heatmaps.layers, "shuffled", "sticker")


def test_images_without_a_mask_are_left_out(small_run):
    small_run.has_mask = small_run.index["image_id"].isin(["b", "d"]).to_numpy()
    small_run.read_mask, small_run.read_predictions = None, lambda: None
    small_run.rows = lambda split: np.flatnonzero(small_run.index["split"] == split)
    images = heatmaps.Images.of(small_run)
    assert set(images.first("test", 10)) == {1, 3} and len(images.first("validation", 10)) == 0
    assert len(images.first("test", 1)) == 1
