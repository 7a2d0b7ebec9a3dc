"""Models: the papers' architectures to the letter, the right input, and cuts anywhere."""

import importlib
import inspect

import numpy as np
import pytest

from lib import config
from lib.networks import alexnet, building, model_graph, vgg16, vgg16_weights
from lib.networks.backend import keras

SEVERAL = ["block3_pool", "block4_pool", "block5_pool"]
NETWORKS = [name for name, each in vars(keras.applications).items() if inspect.isfunction(each)]


@pytest.fixture(scope="module")
def paper():
    run = config.load_config("configs/ham10000.yaml")
    return building.build(run.baseline, 256, 3, run.augmentation, seed=1)


@pytest.fixture(scope="module")
def transfer_model():
    """VGG16 on 32 pixels, with the published weights, and answers that are not all 0 or 1."""
    run = config.load_config("configs/demo.yaml")
    settings = run.model("vgg16").model_copy(update={"input_size": 32})
    keras.utils.set_random_seed(4)
    model = vgg16.vgg16_transfer(256, 3, settings, run.augmentation, seed=1)
    vgg16_weights.load_backbone_weights(model, "VGG16")
    spread_answers(model)
    return model


@pytest.fixture(scope="module")
def tiny():
    return config.load_config("tests/tiny.yaml")


@pytest.fixture(scope="module")
def mobile(tiny):
    """MobileNetV2 on 64 pixels, with random weights: a network of another family, with skips."""
    keras.utils.set_random_seed(4)
    model = transfer(tiny, "MobileNetV2", ["block_8_add", "block_12_add"], "block_11_expand")
    spread_answers(model)
    return model


@pytest.fixture
def bfloat16():
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(usual)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)


def transfer(config, backbone, feature_layers, from_layer, size=64):
    stage = config.model("vgg16").fine_tune.model_copy(update={"from_layer": from_layer})
    names = {"backbone": backbone, "feature_layers": feature_layers, "fine_tune": stage}
    settings = config.model("vgg16").model_copy(update=names | {"input_size": size})
    return vgg16.vgg16_transfer(256, 3, settings, config.augmentation, seed=1)


def run(model, inputs, training=False):
    """Return what a model makes of its inputs: an array, or a list where it puts out several."""
    outputs = model(inputs, training=training)
    if isinstance(outputs, (list, tuple)):
        return [keras.ops.convert_to_numpy(each) for each in outputs]
    return keras.ops.convert_to_numpy(outputs)


def spread_answers(model):
    """Scale the head to the features it gets, so that answers differ and are not all 0 or 1."""
    images = np.random.default_rng(9).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)
    features = run(model_graph.split_before(model, "dense")[0], images)
    kernel, bias = model.get_layer("dense").get_weights()
    kernel = kernel / features.std(axis=0).mean()
    model.get_layer("dense").set_weights([kernel, bias - features.mean(axis=0) @ kernel])
    hidden = run(model_graph.split_before(model, "probabilities")[0], images)
    kernel, bias = model.get_layer("probabilities").get_weights()
    kernel = kernel / (hidden @ kernel).std()
    model.get_layer("probabilities").set_weights([kernel, bias])


def joined_by_hand(model, images, names):
    """Return the means over the maps of the named layers, each of one scale, side by side."""
    parts = [keras.Model(model.input, model.get_layer(name).output) for name in names]
    return np.concatenate([scaled(run(part, images).mean(axis=(1, 2))) for part in parts], axis=1)


def scaled(averages):
    centered = averages - averages.mean(axis=1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + 1e-3)


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
    with pytest.raises(ValueError, match="image_size is 128; expected at least 256"):
        building.build(run.baseline, 128, 3, run.augmentation, seed=1)


def test_probabilities_add_up_to_one(paper, images):
    np.testing.assert_allclose(paper.predict_on_batch(images).sum(axis=1), 1, rtol=1e-5)


def test_the_paper_s_own_last_layer_is_a_relu_and_all_else_is_the_same(tiny, images):
    made = {
        output: building.build(tiny.baseline, 256, 3, tiny.augmentation, 1, output=output)
        for output in ("softmax", "relu")
    }
    made["relu"].set_weights(made["softmax"].get_weights())
    names = [[layer.name for layer in model.layers] for model in made.values()]
    assert names[0] == names[1]
    before = [run(model_graph.split_before(m, "probabilities")[0], images) for m in made.values()]
    np.testing.assert_array_equal(*before)
    kernel, bias = made["relu"].get_layer("probabilities").get_weights()
    scores = np.maximum(before[0] @ kernel + bias, 0)
    np.testing.assert_allclose(run(made["relu"], images), scores, atol=1e-6)
    assert np.abs(scores.sum(axis=1) - 1).min() > 0.01, "no probabilities"


def test_another_output_is_refused(tiny):
    message = r"models\.baseline_cnn\.options\.output: Input should be 'softmax' or 'relu'"
    with pytest.raises(ValueError, match=message):
        building.build(tiny.baseline, 256, 3, output="sigmoid")


def test_pixels_are_rescaled_to_zero_to_one_inside_the_model(paper):
    scaled = paper.get_layer("rescale")(np.array([[[[0, 128, 255]]]], np.float32))
    np.testing.assert_allclose(np.asarray(scaled).ravel(), [0, 128 / 255, 1], rtol=1e-6)


# --------------------------------------------------------------------------------------- AlexNet


def test_alexnet_has_the_map_sizes_and_parameters_of_its_paper(tiny):
    """Without groups; 62,378,344 = the sum of (inputs x outputs + outputs) over the layers."""
    sizes = {"filters": [96, 256, 384, 384, 256], "dense_units": [4096, 4096]}
    model = building.build(tiny.model("alexnet"), 256, 1000, tiny.augmentation, **sizes)
    names = ["conv1", "pool1", "pool2", "conv3", "conv5", "pool5"]
    sides = [model.get_layer(name).output.shape[1:3] for name in names]
    assert sides == [(side, side) for side in (55, 27, 13, 13, 13, 6)]
    convolutions = 11**2 * 3 * 96 + 5**2 * 96 * 256 + 9 * (256 * 384 + 384 * 384 + 384 * 256)
    dense = 6 * 6 * 256 * 4096 + 4096 * 4096 + 4096 * 1000
    biases = 96 + 256 + 384 + 384 + 256 + 4096 + 4096 + 1000
    assert model.count_params() == convolutions + dense + biases == 62_378_344


def test_alexnet_s_layers_stand_in_the_paper_s_order(tiny):
    model = building.build(tiny.model("alexnet"), 256, 3, tiny.augmentation, seed=1)
    names = [layer.name for layer in model.layers]
    assert (
        names[names.index("conv1") :]
        == (
            "conv1 normalize1 pool1 conv2 normalize2 pool2 conv3 conv4 conv5 pool5 flatten "
            "dropout1 dense1 dropout2 dense2 probabilities"
        ).split()
    )
    pools = kinds(model, keras.layers.MaxPooling2D)
    assert {(pool.pool_size, pool.strides) for pool in pools} == {((3, 3), (2, 2))}
    trained = kinds(model, (keras.layers.Conv2D, keras.layers.Dense))
    assert [layer.activation.__name__ for layer in trained] == ["relu"] * 7 + ["softmax"]
    assert [type(layer.kernel_initializer).__name__ for layer in trained[:7]] == ["HeUniform"] * 7


def test_an_image_of_227_pixels_is_not_resized(tiny):
    for size, expected in ((227, []), (256, ["resize"])):
        model = building.build(tiny.model("alexnet"), size, 3, tiny.augmentation, seed=1)
        assert [layer.name for layer in kinds(model, keras.layers.Resizing)] == expected


def normalized_by_hand(a, n, k, alpha, beta):
    """Section 3.3 of Krizhevsky, Sutskever and Hinton (2012), as it is printed."""
    b = np.zeros_like(a)
    last = a.shape[-1] - 1
    for place in np.ndindex(a.shape[:-1]):
        for i in range(last + 1):
            near = range(max(0, i - n // 2), min(last, i + n // 2) + 1)
            b[(*place, i)] = (
                a[(*place, i)] / (k + alpha * sum(a[(*place, j)] ** 2 for j in near)) ** beta
            )
    return b


@pytest.mark.parametrize("constants", [(5, 2.0, 1e-4, 0.75), (3, 1.0, 0.5, 0.5)])
def test_responses_are_normalised_by_the_paper_s_formula(constants):
    values = np.random.default_rng(0).normal(0, 30, (2, 3, 4, 7))
    layer = alexnet.LocalResponseNormalization(*constants)
    found = keras.ops.convert_to_numpy(layer(values.astype(np.float32)))
    np.testing.assert_allclose(found, normalized_by_hand(values, *constants), rtol=1e-5)
    assert np.abs(found / values).max() < 0.999 * constants[1] ** -constants[3]


def test_the_layer_s_defaults_are_the_paper_s():
    settings = alexnet.LocalResponseNormalization().get_config()
    found = [settings[name] for name in ("size", "bias", "alpha", "beta")]
    assert found == [5, 2.0, 1e-4, 0.75]


def test_the_normalisation_s_gradient_is_finite_and_right():
    import tensorflow as tf

    layer, step = alexnet.LocalResponseNormalization(alpha=0.1), 1e-2
    inputs = np.random.default_rng(1).normal(0, 2, (1, 1, 1, 6)).astype(np.float32)
    inputs[..., 2] = 0
    for values in (inputs, inputs * 0, inputs * 1e4):
        with tf.GradientTape() as tape:
            x = tf.constant(values)
            tape.watch(x)
            total = tf.reduce_sum(layer(x))
        assert np.isfinite(tape.gradient(total, x)).all()
    with tf.GradientTape() as tape:
        x = tf.constant(inputs)
        tape.watch(x)
        total = tf.reduce_sum(layer(x))
    found = tape.gradient(total, x).numpy().ravel()
    for i, change in enumerate(np.eye(6, dtype=np.float32) * step):
        up, down = (np.sum(layer(inputs + sign * change)) for sign in (1, -1))
        assert found[i] == pytest.approx((up - down) / (2 * step), abs=2e-3)


@pytest.mark.parametrize("wrong", [{"size": 4}, {"size": 0}, {"bias": 0.0}])
def test_a_normalisation_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="is .*; expected"):
        alexnet.LocalResponseNormalization(**wrong)


# --------------------------------------------------------------------------------------- backbones


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_sees_what_keras_s_own_preprocessing_makes(name, images):
    module = importlib.import_module(f"keras.src.applications.{family(name)}")
    pixels = keras.Input((256, 256, 3))
    found = run(keras.Model(pixels, vgg16.expected_input(name, pixels)), images)
    expected = module.preprocess_input(images.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def family(name):
    return getattr(keras.applications, name).__module__.rpartition(".")[2]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("VGG19", "block2_pool"),
        ("MobileNetV2", "block_3_project_BN"),
        ("DenseNet121", "pool1"),
        ("MobileNetV3Small", "expanded_conv_1_add"),
        ("EfficientNetB0", "block1a_project_bn"),
    ],
)
def test_the_backbone_inside_computes_what_it_computes_alone(tiny, name, layer):
    """The same weights, on pixels prepared by the network's own preprocess_input."""
    if name == "MobileNetV3Small":
        layer = next(n for n in vgg16.backbone_layers(name) if n.endswith("project_bn"))
    model = transfer(tiny, name, [layer], layer)
    alone = vgg16.backbone_layers(name, input_shape=(64, 64, 3))
    for each in model.layers:
        if each.weights and each.name not in vgg16_weights.HEAD:
            alone[each.name].set_weights(each.get_weights())
    pixels = np.random.default_rng(2).integers(0, 256, (2, 1, 1, 3)).repeat(256, 1).repeat(256, 2)
    module = importlib.import_module(f"keras.src.applications.{family(name)}")
    prepared = module.preprocess_input(pixels[:, :64, :64].astype(np.float32))
    start = next(iter(alone.values())).output
    maps = run(keras.Model(start, alone[layer].output), prepared)
    found = run(model_graph.split_before(model, "dense")[0], pixels.astype(np.uint8))
    np.testing.assert_allclose(found, scaled(maps.mean(axis=(1, 2))), rtol=1e-3, atol=1e-4)
    assert np.ptp(maps) > 0


def test_unnamed_layers_have_the_same_names_whatever_was_built_before():
    first, again = (vgg16.backbone_layers("MobileNetV3Small") for _ in range(2))
    assert list(first) == list(again)
    assert [layer.name for layer in first.values()] != [layer.name for layer in again.values()]
    assert "rescaling_1" in first


def test_another_backbone_is_flat_and_answers(mobile, images):
    assert not kinds(mobile, keras.Model)
    assert mobile.get_layer("features").output.shape == (None, 64 + 96)
    np.testing.assert_allclose(run(mobile, images).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("layer", ["block_11_expand", "block_12_add", "bn_Conv1"])
def test_a_network_with_skips_is_cut_anywhere(mobile, images, layer):
    whole = run(mobile, images)
    assert np.ptp(whole, axis=0).max() > 0.01, "the answers differ"
    assert whole.max() < 0.999
    for cut in (model_graph.split_before, model_graph.split_after):
        trunk, top = cut(mobile, layer)
        np.testing.assert_allclose(run(top, run(trunk, images)), whole, atol=1e-6)


def test_a_cut_inside_a_skip_carries_both_ways_across(mobile):
    trunk, top = model_graph.split_before(mobile, "block_11_depthwise")
    before = ["block_11_expand_relu", "block_10_project_BN", "block_8_add_scaled"]
    assert [each._keras_history.operation.name for each in trunk.outputs] == before
    assert len(top.inputs) == 3


@pytest.fixture(scope="module", params=["MobileNetV2", "EfficientNetB0"])
def normalized(tiny, request):
    """A backbone with batch normalisation up to its features, without augmentation."""
    names = {
        "MobileNetV2": (["block_2_add", "block_4_add"], "block_4_expand"),
        "EfficientNetB0": (["block2b_add", "block3b_add"], "block3b_expand_conv"),
    }
    still = config.Augmentation(rotation_degrees=0.0, zoom=0.0, flip="none")
    keras.utils.set_random_seed(6)
    plain = tiny.model_copy(update={"augmentation": still})
    layers, from_layer = names[request.param]
    return transfer(plain, request.param, layers, from_layer), from_layer


def test_a_backbone_does_the_same_in_training_and_nothing_in_it_changes(normalized, images):
    model, from_layer = normalized
    trunk, _ = model_graph.split_before(model, "dense")
    before, expected = model.get_weights(), run(trunk, images)
    assert np.ptp(expected, axis=0).max() > 1e-4, "the images differ"
    model_graph.train_from(model, "dense")
    np.testing.assert_array_equal(run(trunk, images, training=True), expected)
    model_graph.train_from(model, from_layer)
    np.testing.assert_array_equal(run(trunk, images, training=True), expected)
    for value, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, kept)


def test_a_batch_normalisation_that_is_switched_on_would_change(normalized, images):
    """The control of the test above."""
    model, _ = normalized
    trunk, _ = model_graph.split_before(model, "dense")
    before, expected = model.get_weights(), run(trunk, images)
    switched = kinds(model, keras.layers.BatchNormalization)
    try:
        for layer in switched:
            layer.trainable = True
        assert np.abs(run(trunk, images, training=True) - expected).max() > 0.01
        changed = [
            not np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True)
        ]
        assert sum(changed) == 2 * len(switched) > 0  # the averages of each
    finally:
        model.set_weights(before)
        model_graph.train_from(model, "dense")


def test_fine_tuning_trains_convolutions_and_never_batch_normalisation(normalized):
    model, from_layer = normalized
    model_graph.train_from(model, from_layer)
    names = [layer.name for layer in model.layers]
    behind = model.layers[names.index(from_layer) :]
    assert [each for each in behind if isinstance(each, keras.layers.BatchNormalization)]
    trained = [each for each in model.layers if each.trainable_weights]
    assert model.get_layer(from_layer) in trained
    assert {type(each).__name__ for each in trained} == {"Conv2D", "DepthwiseConv2D", "Dense"}


def test_frozen_statistics_stay_frozen_in_a_saved_model(normalized, tmp_path):
    model, _ = normalized
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = kinds(loaded, keras.layers.BatchNormalization)
    assert len(found) > 5
    assert not any(layer.trainable for layer in found)


def test_the_dropout_of_a_backbone_is_off_and_the_head_s_is_on(tiny):
    model = transfer(tiny, "EfficientNetB0", ["block3b_add"], "block3b_expand_conv")
    rates = {layer.name: layer.rate for layer in kinds(model, keras.layers.Dropout)}
    assert rates == {"block2b_drop": 0, "block3b_drop": 0, "dropout": tiny.model("vgg16").dropout}
    assert tiny.model("vgg16").dropout > 0


def test_an_unknown_backbone_is_named_with_one_that_is_close(tiny):
    expected = "no network 'ResNet51'; did you mean 'ResNet50.*'.; it has: ConvNeXtBase, .*VGG16"
    with pytest.raises(ValueError, match=expected):
        transfer(tiny, "ResNet51", ["a"], "a")


def test_an_unknown_layer_of_the_backbone_is_named_with_one_that_is_close(tiny):
    with pytest.raises(ValueError, match="VGG16 has no layer 'block6_pool'; did you mean 'block"):
        transfer(tiny, "VGG16", ["block6_pool"], "block5_conv1")
    with pytest.raises(ValueError, match="VGG16 .*no layer 'block5_con'; did you mean 'block5_con"):
        transfer(tiny, "VGG16", ["block5_pool"], "block5_con")


def test_fine_tuning_from_a_layer_that_no_feature_needs_is_refused(tiny):
    with pytest.raises(ValueError, match="VGG16 up to block4_pool has no layer 'block5_conv1'"):
        transfer(tiny, "VGG16", ["block3_pool", "block4_pool"], "block5_conv1")


def test_a_feature_layer_without_maps_or_named_twice_is_refused(tiny):
    network = vgg16.backbone_layers("EfficientNetB0")
    pool = next(name for name, each in network.items() if len(each.output.shape) == 2)
    with pytest.raises(ValueError, match=rf"{pool}' has outputs of shape \(None, 32\)"):
        transfer(tiny, "EfficientNetB0", [pool], pool)
    with pytest.raises(ValueError, match="names a layer twice: block5_pool, block5_pool"):
        transfer(tiny, "VGG16", ["block5_pool"] * 2, "block5_conv1")


def test_too_few_pixels_for_a_network_are_refused(tiny):
    with pytest.raises(ValueError, match="Input size must be at least 71x71"):
        transfer(tiny, "Xception", ["block1_conv1"], "block1_conv1", size=64)


# ----------------------------------------------------------------------------------------- VGG16


def test_vgg16_is_flat_with_thirteen_convolutions(transfer_model):
    assert [layer.name for layer in kinds(transfer_model, keras.layers.Conv2D)] == list(
        vgg16_weights.VGG16_LAYERS
    )
    assert not kinds(transfer_model, keras.Model)


def test_vgg16_sees_what_keras_s_own_preprocessing_makes(transfer_model, images):
    """Blue first, ImageNet's means off: equal to keras.applications on the same pixels."""
    same = np.repeat(images[:, :1, :1], 256, axis=1).repeat(256, axis=2)  # resizing leaves it alone
    first = keras.Model(transfer_model.input, transfer_model.get_layer("block1_conv1").output)
    expected = keras.applications.vgg16.preprocess_input(same[:, :32, :32].astype(np.float32))
    convolution = transfer_model.get_layer("block1_conv1")
    np.testing.assert_allclose(
        run(first, same)[:, 4:28, 4:28],
        keras.ops.convert_to_numpy(convolution(expected))[:, 4:28, 4:28],
        rtol=1e-3,
        atol=1e-2,
    )


def test_features_are_the_means_of_each_layer_s_maps_in_one_scale_side_by_side(
    transfer_model, images
):
    found = run(model_graph.split_before(transfer_model, "dense")[0], images)
    assert found.shape == (4, 256 + 512 + 512)
    np.testing.assert_allclose(found, joined_by_hand(transfer_model, images, SEVERAL), atol=1e-4)


def test_one_feature_layer_is_named_features_too(tiny, images):
    model = transfer(tiny, "VGG16", ["block2_pool"], "block2_conv1")
    found = run(model_graph.split_before(model, "dense")[0], images)
    assert model.get_layer("features").output.shape == (None, 128)
    np.testing.assert_allclose(found, joined_by_hand(model, images, ["block2_pool"]), atol=1e-4)
    assert "block3_conv1" not in [layer.name for layer in model.layers]


# -------------------------------------------------------------------------------------------- cuts


@pytest.mark.parametrize("cut", [model_graph.split_before, model_graph.split_after])
@pytest.mark.parametrize("layer", ["block1_conv1", "block4_pool", "block5_conv1", "features"])
def test_both_parts_of_a_cut_model_make_the_whole(transfer_model, images, cut, layer):
    trunk, top = cut(transfer_model, layer)
    whole = run(transfer_model, images)
    assert np.ptp(whole, axis=0).max() > 0.01, "the answers differ"
    assert whole.max() < 0.999
    np.testing.assert_allclose(run(top, run(trunk, images)), whole, atol=1e-6)
    own = [each.name for part in (trunk, top) for each in part.layers if each.weights]
    assert own == [each.name for each in transfer_model.layers if each.weights]
    for part in (trunk, top):
        assert all(
            each is transfer_model.get_layer(each.name) for each in part.layers if each.weights
        )


def test_before_block_5_its_input_and_the_pooled_vectors_cross_and_no_other_maps(transfer_model):
    trunk, top = model_graph.split_before(transfer_model, "block5_conv1")
    assert [each.shape for each in trunk.outputs] == [(None, 2, 2, 512), (None, 256), (None, 512)]
    assert trunk.output[0] is transfer_model.get_layer("block4_pool").output
    assert [each.shape for each in top.inputs] == [each.shape for each in trunk.outputs]


def test_before_the_head_the_features_alone_cross(transfer_model):
    trunk, top = model_graph.split_before(transfer_model, "dense")
    assert trunk.output_shape == top.input_shape == (None, 1280)
    assert [layer.name for layer in top.layers[1:]] == ["dense", "dropout", "probabilities"]


def test_after_a_layer_its_own_output_crosses_first(transfer_model):
    trunk, _ = model_graph.split_after(transfer_model, "block4_conv3")
    assert trunk.output[0] is transfer_model.get_layer("block4_conv3").output
    assert [each.shape for each in trunk.outputs] == [(None, 4, 4, 512), (None, 256)]


def test_training_the_top_trains_the_model(tiny, images):
    model = transfer(tiny, "VGG16", SEVERAL, "block5_conv1")
    trunk, top = model_graph.split_before(model, "block5_conv1")
    crossing, whole = run(trunk, images), run(model, images)
    before = [model.get_layer(name).get_weights()[0] for name in ("block4_conv3", "dense")]
    top.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy")
    top.train_on_batch(crossing, np.eye(3)[[0, 1, 2, 0]])
    after = [model.get_layer(name).get_weights()[0] for name in ("block4_conv3", "dense")]
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])
    assert np.abs(run(model, images) - whole).max() > 1e-6
    np.testing.assert_allclose(run(top, crossing), run(model, images), atol=1e-6)


def test_the_first_part_augments_in_training_and_the_second_drops_out(transfer_model, images):
    trunk, top = model_graph.split_before(transfer_model, "block5_conv1")
    crossing = run(trunk, images)
    assert not np.allclose(run(trunk, images, training=True)[1], crossing[1])
    assert not np.allclose(run(top, crossing, training=True), run(top, crossing))


def test_a_part_can_be_cut_again(transfer_model, images):
    trunk, top = model_graph.split_after(transfer_model, "block4_pool")
    block, head = model_graph.split_after(top, "features")
    np.testing.assert_allclose(
        run(head, run(block, run(trunk, images))), run(transfer_model, images), atol=1e-6
    )


def test_cutting_at_an_unknown_layer_names_the_layers(transfer_model):
    for cut in (model_graph.split_before, model_graph.split_after, model_graph.train_from):
        with pytest.raises(
            ValueError, match="no layer 'block9_pool'; did you.*it has: image, to_f"
        ):
            cut(transfer_model, "block9_pool")


def test_nothing_is_cut_off_before_the_first_layer_or_after_the_last(transfer_model):
    with pytest.raises(ValueError, match="nothing comes before 'image'"):
        model_graph.split_before(transfer_model, "image")
    with pytest.raises(ValueError, match="does not depend on 'probabilities'"):
        model_graph.split_after(transfer_model, "probabilities")


def test_training_from_a_layer_leaves_all_before_it_alone(tiny):
    model = transfer(tiny, "VGG16", SEVERAL, "block5_conv1")
    for layer, expected in (
        ("dense", ["dense", "probabilities"]),
        ("block5_conv2", ["block5_conv2", "block5_conv3", "dense", "probabilities"]),
    ):
        model_graph.train_from(model, layer)
        trained = [each.name for each in model.layers if each.trainable_weights]
        assert trained == expected
        assert not model.get_layer("block3_pool_average").trainable
        assert len(model.trainable_weights) == 2 * len(expected)


def test_a_model_that_was_cut_is_saved_whole(transfer_model, images, tmp_path):
    model_graph.split_before(transfer_model, "block5_conv1")
    transfer_model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(run(loaded, images), run(transfer_model, images), atol=1e-6)
    assert [each.name for each in loaded.layers] == [each.name for each in transfer_model.layers]


def test_alexnet_and_another_backbone_are_saved_whole(tiny, mobile, images, tmp_path):
    for model in (mobile, building.build(tiny.model("alexnet"), 256, 3, tiny.augmentation, seed=1)):
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(run(loaded, images), run(model, images), atol=1e-6)


# --------------------------------------------------------------------------------------- precision


def build_each(config):
    """Yield every network, from the same random weights whatever the precision."""
    parts = (config.augmentation, 1)
    names = [f"expanded_conv_{i}_project_bn" for i in (2, 5)]
    for build in (
        lambda: building.build(config.baseline, 256, 3, *parts),
        lambda: building.build(config.model("alexnet"), 256, 3, *parts),
        lambda: transfer(config, "VGG16", SEVERAL, "block5_conv1", 32),
        lambda: transfer(config, "MobileNetV3Small", names, names[1]),
    ):
        keras.utils.set_random_seed(5)
        yield build()


def test_in_bfloat16_answers_are_float32_and_close_to_float32_s(tiny, images, request):
    exact = [(model.get_weights(), run(model, images)) for model in build_each(tiny)]
    request.getfixturevalue("bfloat16")
    differs = []
    for model, (values, expected) in zip(build_each(tiny), exact, strict=True):
        model.set_weights(values)
        found = run(model, images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=0.05, err_msg=model.name)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
        differs.append(np.abs(found - expected).max())
    assert max(differs) > 1e-5, "nothing was computed in bfloat16"


def test_bfloat16_never_touches_pixels_nor_features(tiny, bfloat16):
    for model in build_each(tiny):
        names = [layer.name for layer in model.layers]
        convolution = next(each for each in model.layers if isinstance(each, keras.layers.Conv2D))
        assert convolution.compute_dtype == "bfloat16"
        for layer in model.layers[1 : names.index(convolution.name)]:
            assert layer.compute_dtype == "float32", (model.name, layer.name)
        assert convolution.input.dtype == "float32"
        for layer in kinds(model, (keras.layers.GlobalAveragePooling2D, keras.layers.Concatenate)):
            if "squeeze" not in layer.name:
                assert layer.output.dtype == "float32", (model.name, layer.name)


def test_in_bfloat16_both_parts_still_make_the_whole(tiny, images, bfloat16):
    model = transfer(tiny, "VGG16", SEVERAL, "block5_conv1", 32)
    trunk, top = model_graph.split_before(model, "block5_conv1")
    assert [each.dtype for each in trunk.outputs] == ["bfloat16", "float32", "float32"]
    crossing = trunk(images, training=False)
    np.testing.assert_allclose(run(top, crossing), run(model, images), atol=1e-6)
