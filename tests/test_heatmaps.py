"""Heatmaps point at what decides, and their values and scores are worked by hand."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr

from lib import config, paths
from lib.heatmaps import attribution, gradcam, lesion_overlap
from lib.networks import alexnet, baseline_cnn, model_graph, vgg16
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


def test_grad_cam_of_two_filters_is_worked_by_hand():
    """The maps are red and green, the score of class 1 is 3 x mean(red) - mean(green).

    So the weights are 3/16 and -1/16, and the sums of the four coloured cells, times 16: 3 x 1,
    3 x 0.2 - 1, which is cut off, 3 x 0.4 - 0.6 = 0.6, and -1. Class 0 has a score of 0 everywhere.
    """
    inputs = keras.Input((4, 4, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(2, 1, use_bias=False, name="two")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax", name="out")(x))
    model.get_layer("two").set_weights([np.eye(3)[None, None, :, :2]])
    model.get_layer("out").set_weights([np.array([[0.0, 3.0], [0.0, -1.0]]), np.zeros(2)])
    image = np.zeros((1, 4, 4, 3), np.uint8)
    image[0, 0, 0] = 255, 0, 0
    image[0, 1, 1] = 51, 255, 0
    image[0, 2, 2] = 102, 153, 0
    image[0, 3, 3] = 0, 255, 0
    expected = np.diag([1, 0, 0.2, 0])
    for heatmaps in gradcam.grad_cam(model, image, "two", np.array([1]))[:2]:
        np.testing.assert_allclose(heatmaps[0], expected, atol=1e-6)
    assert not np.any(gradcam.grad_cam(model, image, "two", np.array([0]))[:2])


def test_the_predicted_class_is_explained_unless_another_is_asked_for(bright_spot_model, spot):
    three = np.concatenate([spot, 255 - spot, 0 * spot])  # no light at all: a tie, the first class
    maps, _, classes = gradcam.grad_cam(bright_spot_model, three, "spot", batch_size=2)
    assert classes.tolist() == [1, 1, 0]
    asked, *_ = gradcam.grad_cam(bright_spot_model, three, "spot", np.array([1, 1, 0]))
    np.testing.assert_array_equal(maps, asked)


def test_another_backend_than_tensorflow_is_one_clear_error(bright_spot_model, spot, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="need the backend TensorFlow; found jax"):
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
    found, *_ = gradcam.grad_cam(two_ways_model, red_and_blue, "red", ones, batch_size=1)
    np.testing.assert_allclose(found, red_and_blue[..., 0] / 255, atol=1e-6)


def test_a_layer_s_own_ways_alone_count(two_ways_model, red_and_blue):
    """What comes after red is -2 x red, with a gradient of 1: nothing speaks for class 1."""
    ones = np.ones(2, int)
    assert not gradcam.grad_cam(two_ways_model, red_and_blue, "after", ones)[0].any()
    blue, *_ = gradcam.grad_cam(two_ways_model, red_and_blue, "blue", ones)
    np.testing.assert_allclose(blue, red_and_blue[..., 2] / 255, atol=1e-6)


def test_the_weights_are_what_small_changes_of_each_channel_do_to_the_score():
    """On three feature layers, of which two come after the maps of block 3."""
    keras.utils.set_random_seed(3)
    run = config.load_config("tests/tiny.yaml")
    model = vgg16.vgg16_transfer(256, 3, run.model("vgg16"), run.augmentation, seed=1)
    images = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
    found, _, (chosen,) = gradcam.grad_cam(model, images, "block3_pool")
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
    _, by_cell, _ = gradcam.grad_cam(two_places_model, images, "light", ones)
    np.testing.assert_allclose(by_cell[0, :4], 1, atol=1e-6)
    assert not by_cell[0, 4:].any()


# ------------------------------------------------------------- classes, batches, number formats


def test_a_class_that_the_model_does_not_have_is_refused(bright_spot_model, spot):
    for explain in (
        lambda classes: gradcam.grad_cam(bright_spot_model, spot, "spot", classes),
        lambda classes: attribution.integrated_gradients(bright_spot_model, spot, classes),
        lambda classes: attribution.occlusion(bright_spot_model, spot, classes),
    ):
        for outside in (2, -1):
            with pytest.raises(ValueError, match="expected numbers from 0 to 1"):
                explain(np.array([outside]))


def test_a_model_without_convolutions_has_no_grad_cam_but_other_heatmaps(spot):
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax", name="out")(x))
    with pytest.raises(ValueError, match="layer 'flatten.*' outputs shape"):
        gradcam.grad_cam(model, spot, model.layers[2].name)
    assert attribution.integrated_gradients(model, spot, np.array([1]))[0].shape == (1, 16, 16)
    assert attribution.occlusion(model, spot, np.array([1])).shape == (1, 16, 16)


def test_alexnet_is_explained_by_every_method(monkeypatch):
    monkeypatch.setattr(attribution, "POSITIONS", 4)
    options = {"filters": [4] * 5, "dense_units": [8, 8], "dropout": 0.5}
    model = alexnet.alexnet(256, 3, None, 0, **options)
    image = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
    for maps in (
        *gradcam.grad_cam(model, image, "conv5", np.array([2]))[:2],
        attribution.integrated_gradients(model, image, np.array([2]))[0],
        attribution.occlusion(model, image, np.array([2])),
    ):
        assert maps.shape == (1, 256, 256)
        assert np.isfinite(maps).all()


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_batch_of_any_size_gives_the_same_heatmaps(two_places_model, batch_size):
    images = np.random.default_rng(3).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    arguments = two_places_model, images, "light", np.array([0, 1, 1])
    expected, maps = (gradcam.grad_cam(*arguments, batch_size=n) for n in (16, batch_size))
    for one, other in zip(maps, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_keras_that_is_set_to_channels_first_makes_no_difference(tmp_path):
    """In the user's keras.json; Keras itself then refuses images as Pillow reads them."""
    settings = {"image_data_format": "channels_first", "floatx": "float64", "backend": "tensorflow"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    code = (
        "import numpy as np\n"
        "from lib.heatmaps import attribution, gradcam\n"
        "from lib.networks import baseline_cnn\n"
        "options = {'filters': [4] * 8, 'dense_units': [8, 8]}\n"
        "model = baseline_cnn.baseline_cnn(256, 3, None, 0, **options)\n"
        "image = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)\n"
        "attribution.POSITIONS, classes = 4, np.array([1])\n"
        "_, maps, _ = gradcam.grad_cam(model, image, 'conv5', classes)\n"
        "gradients, _ = attribution.integrated_gradients(model, image, classes)\n"
        "covered = attribution.occlusion(model, image, classes)\n"
        "print(*(heatmap.shape == (1, 256, 256) for heatmap in (maps, gradients, covered)))\n"
        "print(maps.any(), model.get_layer('conv5').output.shape[1:])\n"
    )
    environment = os.environ | {"KERAS_HOME": str(tmp_path)}
    options = {"capture_output": True, "text": True, "env": environment, "cwd": paths.ROOT}
    result = subprocess.run([sys.executable, "-c", code], **options)
    assert result.stdout == "True True True\nTrue (16, 16, 4)\n", result.stderr


def test_grad_cam_agrees_with_an_independent_implementation():
    """Xplique's, which enlarges maps with another interpolation; it is not in the environment."""
    attributions = pytest.importorskip("xplique.attributions")
    keras.utils.set_random_seed(1)
    options = {"filters": [4, 4, 8, 8, 8, 8, 8, 8], "dense_units": [8, 8]}
    model = baseline_cnn.baseline_cnn(256, 3, None, 0, **options)
    images = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)
    ours, _, classes = gradcam.grad_cam(model, images, "conv5", np.arange(3))
    theirs = attributions.GradCAM(gradcam.before_softmax(model), conv_layer="conv5")
    theirs = theirs.explain(images.astype(np.float32), np.eye(3, dtype=np.float32)[classes])
    theirs = np.reshape(theirs, ours.shape)
    assert ours.any(axis=(1, 2)).tolist() == theirs.any(axis=(1, 2)).tolist()
    for one, other in zip(ours, theirs, strict=True):
        assert not one.any() or np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99


# ----------------------------------------------------------------------- integrated gradients


@pytest.fixture
def colours():
    return np.random.default_rng(5).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)


def test_integrated_gradients_of_a_linear_model_are_its_weights_times_the_change(
    two_places_model, colours, monkeypatch
):
    """Class 1 is 1/3 of each channel, times 1 in the upper half and -2 in the lower."""
    monkeypatch.setattr(attribution, "BLUR", 1e-9)
    maps, gaps = attribution.integrated_gradients(two_places_model, colours, np.array([1, 1]))
    light = colours.astype(float) / 255
    change = (light - light.mean(axis=(1, 2), keepdims=True)).mean(axis=-1)
    expected = np.maximum(change * np.repeat([1.0, -2.0], 4)[:, None], 0)
    np.testing.assert_allclose(maps, expected / expected.max(axis=(1, 2), keepdims=True), atol=1e-5)
    np.testing.assert_allclose(gaps, 0, atol=1e-4)


def test_integrated_gradients_do_not_depend_on_the_batch(two_places_model, monkeypatch):
    images = np.random.default_rng(3).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    arguments = two_places_model, images, np.array([1, 1, 1])
    expected, gaps = attribution.integrated_gradients(*arguments)
    monkeypatch.setattr(attribution, "BATCH", 2)
    maps, same = attribution.integrated_gradients(*arguments)
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    np.testing.assert_allclose(same, gaps, atol=1e-4)


def test_the_values_of_a_path_add_up_to_the_change_of_the_score():
    """For x^3, whose gradient is 3 x^2: from 1 to 3 that is 26, all of it from the first value."""
    inputs = keras.Input((2,))
    cubes = keras.Model(inputs, inputs**3)
    start, end = np.array([[1.0, 5.0]], np.float32), np.array([[3.0, 5.0]], np.float32)
    values, change = attribution.path_integral(cubes, start, end, np.array([0]))
    np.testing.assert_allclose(values, [[26, 0]], rtol=1e-5)
    np.testing.assert_allclose(change, [26], rtol=1e-5)


# ---------------------------------------------------------------------------------- occlusion


def spot_at(top, left, size=56):
    """Return an image of noise with a bright spot as large as the squares that cover it."""
    image = np.random.default_rng(1).integers(0, 60, (size, size, 3), dtype=np.uint8)
    image[top : top + size // 7, left : left + size // 7] = 255
    return image[None]


@pytest.fixture(scope="module")
def large_spot_model(bright_spot_model):
    inputs = keras.Input((56, 56, 3), dtype="uint8")
    x = inputs
    for layer in bright_spot_model.layers[1:]:
        x = layer(x)
    return keras.Model(inputs, x)


def test_occlusion_is_highest_where_the_spot_is_covered(large_spot_model):
    image, ones = spot_at(16, 32), np.ones(1, int)
    for dense in (True, False):
        (heatmap,) = attribution.occlusion(large_spot_model, image, ones, dense)
        assert np.unravel_index(heatmap.argmax(), heatmap.shape) in [
            (y, x) for y in (19, 20) for x in (35, 36)
        ]


def test_occlusion_is_the_change_of_the_log_odds_worked_by_hand(large_spot_model):
    """The score of class 1 is 9 x the mean light of three channels; that of class 0 is minus it."""
    image = spot_at(0, 0)
    (heatmap,) = attribution.occlusion(large_spot_model, image, np.ones(1, int), dense=True)
    covered = image[0].astype(float)
    covered[:8, :8] = image[0].mean(axis=(0, 1)).round()
    fall = 18 * (image[0] - covered).sum() / 255 / 56**2
    assert heatmap[0, 0] == heatmap.max() == pytest.approx(fall, rel=1e-3)


def test_occlusion_of_a_very_sure_prediction_is_not_zero(large_spot_model):
    """At a probability of 1 in float32 the softmax hides every change."""
    sure = keras.models.clone_model(large_spot_model)
    sure.set_weights([np.ones((1, 1, 3, 1)), np.array([[-700.0, 700.0]]), np.zeros(2)])
    image = spot_at(16, 32)
    assert sure(image)[0, 1] == 1
    assert attribution.occlusion(sure, image, np.ones(1, int)).max() > 1


def test_two_passes_order_pixels_as_the_dense_one_with_a_fifth_of_the_squares(monkeypatch):
    """A small CNN with random weights; most of its squares count for something."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input((112, 112, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for filters in (8, 16, 16):
        x = keras.layers.Conv2D(filters, 3, 2, activation="relu", kernel_initializer="he_uniform")(
            x
        )
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))
    small = np.random.default_rng(4).integers(0, 256, (2, 3, 3, 3), dtype=np.uint8)
    images = np.stack([cv2.resize(image, (112, 112)) for image in small])
    counts, forward = [], attribution.inference.forward

    def counted(scores, covered, **options):
        counts.append(len(covered))
        return forward(scores, covered, **options)

    monkeypatch.setattr(attribution.inference, "forward", counted)
    classes = np.array([0, 2])
    dense = attribution.occlusion(model, images, classes, dense=True)
    squares = sum(counts)
    fast = attribution.occlusion(model, images, classes)
    assert squares / (sum(counts) - squares) > 5
    for one, other in zip(dense, fast, strict=True):
        assert spearmanr(one.ravel(), other.ravel()).statistic > 0.9
