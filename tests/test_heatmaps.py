"""Heatmaps: Grad-CAM points at what decides, and its score is worked by hand."""

import numpy as np
import pytest

from lib import heatmaps
from lib.backend import keras


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
    heatmap = heatmaps.grad_cam(bright_spot_model, spot, "spot", np.array([1]))[0][0]
    assert heatmap.shape == (16, 16)
    assert heatmap.max() == pytest.approx(1)
    assert heatmap[2:6, 9:13].min() > 0.9
    assert heatmap.sum() == pytest.approx(16, rel=0.01)


def test_the_predicted_class_is_explained_unless_another_is_asked_for(bright_spot_model, spot):
    three = np.concatenate([spot, 255 - spot, 0 * spot])  # no light at all: a tie, the first class
    maps, classes = heatmaps.grad_cam(bright_spot_model, three, "spot", batch_size=2)
    assert classes.tolist() == [1, 1, 0]
    asked, _ = heatmaps.grad_cam(bright_spot_model, three, "spot", np.array([1, 1, 0]))
    np.testing.assert_array_equal(maps, asked)


def test_a_very_sure_answer_is_still_explained(bright_spot_model, spot):
    """Where the probability is 1 in float32, the softmax has no gradient left."""
    sure = keras.models.clone_model(bright_spot_model)
    sure.set_weights([np.ones((1, 1, 3, 1)), np.array([[-70.0, 70.0]]), np.zeros(2)])
    heatmap = heatmaps.grad_cam(sure, spot, "spot")[0][0]
    assert heatmap[2:6, 9:13].min() > 0.9


def test_grad_cam_is_zero_where_nothing_speaks_for_the_class(bright_spot_model, spot):
    assert not heatmaps.grad_cam(bright_spot_model, spot, "spot", np.array([0]))[0].any()


def test_an_unknown_layer_is_named_with_the_layers_there_are(bright_spot_model, spot):
    with pytest.raises(ValueError, match="no layer 'conv9'; it has: .*spot"):
        heatmaps.grad_cam(bright_spot_model, spot, "conv9")


def test_a_layer_without_maps_is_refused(bright_spot_model, spot):
    with pytest.raises(ValueError, match="layer 'out' puts out shape"):
        heatmaps.grad_cam(bright_spot_model, spot, "out")


def test_mass_inside_is_the_share_worked_by_hand():
    maps = np.array([[[1.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    masks = np.array([[[False, True], [False, True]]] * 2)
    inside = heatmaps.mass_inside(maps, masks)
    assert inside[0] == pytest.approx(3 / 4)
    assert np.isnan(inside[1])


def test_one_map_may_stand_for_all_images():
    masks = np.array([[[True, False]], [[False, True]], [[True, True]]])
    inside = heatmaps.mass_inside(np.array([[[3.0, 1.0]]]), masks)
    np.testing.assert_allclose(inside, [0.75, 0.25, 1.0])


def test_a_uniform_map_scores_the_lesion_s_share_of_the_area():
    mask = np.zeros((1, 10, 10), bool)
    mask[0, :3] = True
    assert heatmaps.mass_inside(np.ones((1, 10, 10)), mask)[0] == pytest.approx(0.3)
