"""Heatmaps: Grad-CAM points at what decides, and its score is worked by hand."""

import numpy as np
import pytest

from lib import config
from lib.heatmaps import gradcam, lesion_overlap
from lib.networks import model_graph, vgg16
from lib.networks.backend import keras


@pytest.fixture(scope="module")
def bright_spot_model():
    """Answers class 1 where a bright spot is, by construction."""
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(1, 1, use_bias=False, name="spot")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="out")(x))
    model.get_layer("spot").set_weights([np.ones((1, 1, 3, 1))])
    model.get_layer("out").set_weights([np.array([[-9.0, 9.0]]), np.zeros(2)])
    return model


@pytest.fixture
def spot():
    images = np.zeros((1, 16, 16, 3), np.uint8)
    images[0, 2:6, 9:13] = 255
    return images


def test_grad_cam_points_at_what_decides(bright_spot_model, spot):
    heatmap = gradcam.grad_cam(bright_spot_model, spot, "spot", np.array([1]))[0][0]
    assert heatmap.shape == (16, 16)
    assert heatmap.max() == pytest.approx(1)
    assert heatmap[2:6, 9:13].min() > 0.9
    assert heatmap.sum() == pytest.approx(16, rel=0.01)


def test_the_predicted_class_is_explained_unless_another_is_asked_for(bright_spot_model, spot):
    three = np.concatenate([spot, 255 - spot, 0 * spot])  # no light at all: a tie, the first class
    maps, classes = gradcam.grad_cam(bright_spot_model, three, "spot", batch_size=2)
    assert classes.tolist() == [1, 1, 0]
    asked, _ = gradcam.grad_cam(bright_spot_model, three, "spot", np.array([1, 1, 0]))
    np.testing.assert_array_equal(maps, asked)


def test_another_backend_than_tensorflow_is_one_clear_error(bright_spot_model, spot, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="needs the backend TensorFlow; found jax"):
        gradcam.grad_cam(bright_spot_model, spot, "spot")


def test_a_very_sure_answer_is_still_explained(bright_spot_model, spot):
    """Where the probability is 1 in float32, the softmax has no gradient left."""
    sure = keras.models.clone_model(bright_spot_model)
    sure.set_weights([np.ones((1, 1, 3, 1)), np.array([[-70.0, 70.0]]), np.zeros(2)])
    heatmap = gradcam.grad_cam(sure, spot, "spot")[0][0]
    assert heatmap[2:6, 9:13].min() > 0.9


def test_grad_cam_is_zero_where_nothing_speaks_for_the_class(bright_spot_model, spot):
    assert not gradcam.grad_cam(bright_spot_model, spot, "spot", np.array([0]))[0].any()


def test_an_unknown_layer_is_named_with_the_layers_there_are(bright_spot_model, spot):
    with pytest.raises(ValueError, match="No such layer: conv9.*spot"):
        gradcam.grad_cam(bright_spot_model, spot, "conv9")


def test_a_layer_without_maps_is_refused(bright_spot_model, spot):
    with pytest.raises(ValueError, match="layer 'out' outputs shape"):
        gradcam.grad_cam(bright_spot_model, spot, "out")


def test_a_model_that_does_not_end_in_a_softmax_is_refused(bright_spot_model):
    scores = keras.Model(bright_spot_model.input, bright_spot_model.get_layer("spot").output)
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    relu = keras.layers.Dense(2, activation="relu", name="scores")
    model = keras.Model(inputs, relu(keras.layers.GlobalAveragePooling2D()(scores(inputs))))
    with pytest.raises(ValueError, match="ends in layer 'scores'; expected a dense softmax layer"):
        gradcam.grad_cam(model, np.zeros((1, 16, 16, 3), np.uint8), scores.name)


@pytest.fixture(scope="module")
def two_ways_model():
    """Red decides through `red` and `after` and its own mean, blue beside them through `blue`."""
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    once = {"kernel_size": 1, "use_bias": False}
    red = keras.layers.Conv2D(1, name="red", **once)(x)
    after = keras.layers.Conv2D(1, name="after", **once)(red)
    blue = keras.layers.Conv2D(1, name="blue", **once)(x)
    means = [keras.layers.GlobalAveragePooling2D()(each) for each in (red, after, blue)]
    joined = keras.layers.Concatenate(name="features")(means)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax", name="probabilities")(joined))
    for name, kernel in (("red", [1, 0, 0]), ("after", [-2]), ("blue", [0, 0, 1])):
        model.get_layer(name).set_weights([np.reshape(kernel, (1, 1, -1, 1))])
    scores = np.array([[0, 3.0], [0, 1.0], [0, 5.0]])  # red itself, what comes after it, blue
    model.get_layer("probabilities").set_weights([scores, np.zeros(2)])
    return model


@pytest.fixture
def red_and_blue():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[:, :2, :2, 0] = 255
    images[:, 6:, 6:, 2] = 255
    images[1, 4:, :4, 0] = 128
    return images


def test_all_ways_from_a_layer_to_the_answer_count_and_others_are_held_fixed(
    two_ways_model, red_and_blue
):
    """Red's gradient is 3 + 1 x -2 = 1 a pixel: both its ways; blue's corner is no part of it."""
    _, top = model_graph.split_after(two_ways_model, "red")
    assert len(top.inputs) == 2, "the maps and what comes from blue"
    ones = np.ones(2, int)
    found, _ = gradcam.grad_cam(two_ways_model, red_and_blue, "red", ones, batch_size=1)
    np.testing.assert_allclose(found, red_and_blue[..., 0] / 255, atol=1e-6)


def test_a_layer_s_own_ways_alone_count(two_ways_model, red_and_blue):
    """What comes after red is -2 x red, with a gradient of 1: nothing speaks for class 1."""
    ones = np.ones(2, int)
    assert not gradcam.grad_cam(two_ways_model, red_and_blue, "after", ones)[0].any()
    blue, _ = gradcam.grad_cam(two_ways_model, red_and_blue, "blue", ones)
    np.testing.assert_allclose(blue, red_and_blue[..., 2] / 255, atol=1e-6)


def test_the_weights_are_what_small_changes_of_each_channel_do_to_the_score():
    """On three feature layers, of which two come after the maps of block 3."""
    keras.utils.set_random_seed(3)
    run = config.load_config("tests/tiny.yaml")
    model = vgg16.vgg16_transfer(256, 3, run.model("vgg16"), run.augmentation, seed=1)
    images = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
    found, (chosen,) = gradcam.grad_cam(model, images, "block3_pool")
    trunk, top = model_graph.split_after(model, "block3_pool")
    maps = keras.ops.convert_to_numpy(trunk(images, training=False))
    step = 0.02 * maps.std() * np.eye(maps.shape[-1], dtype=np.float32)[:, None, None]
    before_last, _ = model_graph.split_before(top, "probabilities")
    scores = [
        keras.ops.convert_to_numpy(before_last(shifted, training=False))
        @ model.get_layer("probabilities").get_weights()[0][:, chosen]
        for shifted in (maps + step, maps - step)
    ]
    expected = np.maximum((maps[0] * (scores[0] - scores[1])).sum(axis=-1), 0)
    assert np.ptp(expected) > 0
    in_the_middle = found[0][[[32], [96], [160], [224]], [[32, 96, 160, 224]]]
    assert np.corrcoef(in_the_middle.ravel(), expected.ravel())[0, 1] > 0.9


def test_mass_inside_is_the_share_worked_by_hand():
    maps = np.array([[[1.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    masks = np.array([[[False, True], [False, True]]] * 2)
    inside = lesion_overlap.mass_inside(maps, masks)
    assert inside[0] == pytest.approx(3 / 4)
    assert np.isnan(inside[1])


def test_one_map_may_stand_for_all_images():
    masks = np.array([[[True, False]], [[False, True]], [[True, True]]])
    inside = lesion_overlap.mass_inside(np.array([[[3.0, 1.0]]]), masks)
    np.testing.assert_allclose(inside, [0.75, 0.25, 1.0])


def test_a_uniform_map_scores_the_lesion_s_share_of_the_area():
    mask = np.zeros((1, 10, 10), bool)
    mask[0, :3] = True
    assert lesion_overlap.mass_inside(np.ones((1, 10, 10)), mask)[0] == pytest.approx(0.3)


# ------------------------------------------------------------- a lesion in a corner, by hand


@pytest.fixture
def corner():
    """Return masks of a lesion in the upper left quarter of 4 x 4 pixels, and three heatmaps."""
    mask = np.zeros((3, 4, 4), bool)
    mask[:, :2, :2] = True
    maps = np.zeros((3, 4, 4))
    maps[0, :2, :2] = 1  # exactly the lesion
    maps[1, 3, 3], maps[1, 0, 0] = 1.0, 0.6  # highest outside it; the third is zero everywhere
    return maps, mask


def test_the_pointing_game_asks_where_the_highest_value_is(corner):
    maps, masks = corner
    np.testing.assert_array_equal(lesion_overlap.points_inside(maps, masks), [1, 0, np.nan])
    one_map = lesion_overlap.points_inside(maps[:1], masks)
    np.testing.assert_array_equal(one_map, [1, 1, 1])


def test_iou_counts_what_is_at_the_threshold_or_above(corner):
    maps, masks = corner
    np.testing.assert_allclose(lesion_overlap.iou(maps, masks, 0.5), [1, 1 / 5, np.nan])
    np.testing.assert_allclose(lesion_overlap.iou(maps, masks, 0.7), [1, 0, np.nan])


def test_the_threshold_is_the_one_with_the_best_mean_iou():
    """A heatmap that falls from 1 to 0.2: the lesion is where it is 0.6 and more."""
    maps = np.array([[[1.0, 0.6, 0.4, 0.2]]])
    masks = np.array([[[True, True, False, False]]])
    assert lesion_overlap.best_threshold(maps, masks) == pytest.approx(0.45)
    assert lesion_overlap.best_threshold(0 * maps, masks) == pytest.approx(0.05)


@pytest.mark.parametrize("radius", [0.3, 0.6])
def test_the_gaussian_is_as_wide_as_the_lesions(radius):
    """At half its height a Gaussian of width s has the radius 1.18 s."""
    y, x = np.mgrid[-1:1:101j, -1:1:101j]
    gaussian = lesion_overlap.best_gaussian((np.hypot(x, y) < radius)[None])
    assert gaussian.shape == (1, 101, 101) and gaussian.max() == 1
    width = np.sqrt(-1 / (2 * np.log(gaussian[0, 50, 100])))
    assert width == pytest.approx(radius / 1.18, abs=0.05)


def test_scores_are_a_row_for_each_mask(corner):
    table = lesion_overlap.scores(*corner, threshold=0.5)
    assert list(table) == lesion_overlap.SCORES
    assert table.isna().all(axis=1).tolist() == [False, False, True]


@pytest.fixture(scope="module")
def two_places_model():
    """One map whose upper half counts for class 1, and whose lower half counts against it."""
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(1, 1, use_bias=False, name="light")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="out")(x))
    model.get_layer("light").set_weights([np.full((1, 1, 3, 1), 1 / 3)])
    weights = np.repeat([1.0, -2.0], 32)
    model.get_layer("out").set_weights([np.stack([0 * weights, weights], 1), np.zeros(2)])
    return model


def test_hires_cam_counts_each_cell_where_grad_cam_counts_the_mean(two_places_model):
    """The mean gradient is (1 - 2) / 2 < 0, so Grad-CAM is zero; the upper half speaks for it."""
    images, ones = np.full((1, 8, 8, 3), 255, np.uint8), np.ones(1, int)
    assert not gradcam.grad_cam(two_places_model, images, "light", ones)[0].any()
    by_cell, _ = gradcam.grad_cam(two_places_model, images, "light", ones, pooled=False)
    np.testing.assert_allclose(by_cell[0, :4], 1, atol=1e-6)
    assert not by_cell[0, 4:].any()
