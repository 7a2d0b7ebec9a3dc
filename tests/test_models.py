"""Models: the paper's architecture to the letter, and VGG16 with the right input."""

import numpy as np
import pytest

from lib import config, models, weights
from lib.backend import keras


@pytest.fixture(scope="module")
def paper():
    run = config.load_config("configs/ham10000.yaml")
    return models.baseline_cnn(256, 3, run.baseline_cnn, run.augmentation, seed=1)


@pytest.fixture(scope="module")
def vgg16():
    """VGG16 on 32 pixels, with the published weights."""
    run = config.load_config("configs/demo.yaml")
    settings = run.vgg16_transfer.model_copy(update={"input_size": 32})
    model = models.vgg16_transfer(256, 3, settings, run.augmentation, seed=1)
    weights.load_vgg16_weights(model)
    return model


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)


def run(model, inputs, training=False):
    return keras.ops.convert_to_numpy(model(inputs, training=training))


def kinds(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


# -------------------------------------------------------------------------------------- baseline


def test_the_baseline_has_eight_convolutions_each_followed_by_a_pooling(paper):
    names = [layer.name for layer in paper.layers if layer.name[:4] in ("conv", "pool")]
    assert names == [f"{kind}{i}" for i in range(1, 9) for kind in ("conv", "pool")]


def test_the_baseline_has_two_dense_relu_layers_and_a_softmax(paper):
    dense = kinds(paper, keras.layers.Dense)
    assert [layer.activation.__name__ for layer in dense] == ["relu", "relu", "softmax"]
    assert dense[-1].units == 3


def test_eight_poolings_leave_one_pixel_of_256(paper):
    assert paper.get_layer("pool8").output.shape[1:3] == (1, 1)


def test_the_baseline_s_first_convolution_has_the_parameters_worked_out_by_hand(paper):
    assert paper.get_layer("conv1").count_params() == 3 * 3 * 3 * 32 + 32
    assert paper.get_layer("dense1").count_params() == 256 * 128 + 128


def test_an_image_too_small_for_eight_poolings_is_refused():
    run = config.load_config("configs/demo.yaml")
    with pytest.raises(ValueError, match="image_size is 128; 8 poolings by two need at least 256"):
        models.baseline_cnn(128, 3, run.baseline_cnn, run.augmentation, seed=1)


def test_probabilities_add_up_to_one(paper, images):
    np.testing.assert_allclose(paper.predict_on_batch(images).sum(axis=1), 1, rtol=1e-5)


def test_pixels_are_rescaled_to_zero_to_one_inside_the_model(paper):
    scaled = paper.get_layer("rescale")(np.array([[[[0, 128, 255]]]], np.float32))
    np.testing.assert_allclose(np.asarray(scaled).ravel(), [0, 128 / 255, 1], rtol=1e-6)


# ----------------------------------------------------------------------------------------- VGG16


def test_vgg16_is_flat_with_thirteen_convolutions(vgg16):
    assert [layer.name for layer in kinds(vgg16, keras.layers.Conv2D)] == list(weights.VGG16_LAYERS)
    assert not kinds(vgg16, keras.Model)


def test_vgg16_sees_what_keras_s_own_preprocessing_makes(vgg16, images):
    """Blue first, ImageNet's means off: equal to keras.applications on the same pixels."""
    same = np.repeat(images[:, :1, :1], 256, axis=1).repeat(256, axis=2)  # resizing leaves it alone
    first = keras.Model(vgg16.input, vgg16.get_layer("block1_conv1").output)
    expected = keras.applications.vgg16.preprocess_input(same[:, :32, :32].astype(np.float32))
    convolution = vgg16.get_layer("block1_conv1")
    np.testing.assert_allclose(
        run(first, same)[:, 4:28, 4:28],
        keras.ops.convert_to_numpy(convolution(expected))[:, 4:28, 4:28],
        rtol=1e-3,
        atol=1e-2,
    )


@pytest.mark.parametrize("layer", ["block4_pool", "features"])
def test_both_parts_of_a_cut_model_make_the_whole(vgg16, images, layer):
    trunk, top = models.split_model(vgg16, layer)
    whole = vgg16.predict_on_batch(images)
    np.testing.assert_allclose(run(top, run(trunk, images)), whole, atol=1e-5)
    assert top.layers[-1] is vgg16.layers[-1], "the parts share the model's layers"


def test_a_part_can_be_cut_again(vgg16, images):
    trunk, top = models.split_model(vgg16, "block4_pool")
    block, head = models.split_model(top, "features")
    np.testing.assert_allclose(
        run(head, run(block, run(trunk, images))), vgg16.predict_on_batch(images), atol=1e-5
    )


def test_cutting_at_an_unknown_layer_names_the_layers(vgg16):
    with pytest.raises(ValueError, match="has no layer 'block9_pool'; it has: image, to_float"):
        models.split_model(vgg16, "block9_pool")


def test_a_saved_model_says_the_same(vgg16, images, tmp_path):
    vgg16.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict_on_batch(images), vgg16.predict_on_batch(images), atol=1e-6
    )
