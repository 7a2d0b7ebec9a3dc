"""Augmentation: in training only, its own for each image, no wedges, and colours kept close."""

import cv2
import numpy as np
import pytest

from lib import config
from lib.data import datasets
from lib.networks import batching, building, common_layers, feature_cache, inference
from lib.networks.backend import keras
from lib.preprocessing import decode

PINK = np.array([220, 160, 150], np.float32)
MILD = config.ColorJitter(brightness=0.05, contrast=0.1, saturation=0.1, hue_degrees=4)
OFF = config.Augmentation(rotation_degrees=0, zoom=0, flip="none")
PAPER = config.Augmentation(rotation_degrees=180, zoom=0.1, flip="horizontal_and_vertical")
STRONGER = PAPER.model_copy(update={"color_jitter": MILD})


def only(**amounts):
    """Return an augmentation that does one thing to the colours, and nothing else."""
    return OFF.model_copy(update={"color_jitter": config.ColorJitter(**amounts)})


def draw(batch, settings, seed=1, white=1.0):
    for layer in common_layers.augmentation_layers(settings, seed, white):
        batch = layer(batch, training=True)
    return keras.ops.convert_to_numpy(batch)


def network(settings, seed=1):
    """Return the paper's CNN, as small as it can be."""
    run = config.load_config("tests/tiny.yaml")
    return building.build(run.baseline, 256, 3, settings, seed)


def hue_and_saturation(pixels):
    """Return hue in degrees from red, -180 to 180, and saturation of HSV, of an RGB array."""
    hsv = cv2.cvtColor(np.float32(pixels).reshape(1, -1, 3), cv2.COLOR_RGB2HSV)[0]
    return (hsv[:, 0] + 180) % 360 - 180, hsv[:, 1]


@pytest.fixture
def images():
    """Four smooth images that no flip or turn leaves as they are, uint8."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.float32)
    return np.stack([cv2.resize(each, (256, 256)) for each in noise]).astype(np.uint8)


@pytest.fixture
def plain():
    """Four hundred images of one pinkish colour, 0 to 1."""
    return np.broadcast_to(PINK / 255, (400, 4, 4, 3)).astype(np.float32)


# ----------------------------------------------------------------------------- in training only


def test_outside_training_a_model_is_bit_for_bit_the_one_without_augmentation(images):
    plain, augmented = network(OFF), network(STRONGER)
    assert len(augmented.layers) == len(plain.layers) + 5
    augmented.set_weights(plain.get_weights())
    for say in (inference.forward, lambda model, batch: model.predict(batch, verbose=0)):
        np.testing.assert_array_equal(say(augmented, images), say(plain, images))


def test_a_saved_model_augments_as_before(images, tmp_path):
    model = network(STRONGER)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    draws = [
        keras.ops.convert_to_numpy(each(images, training=True)) for each in (model, model, loaded)
    ]
    assert not np.array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])


def test_augmentation_is_done_in_float32_whatever_the_precision():
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        made = common_layers.augmentation_layers(STRONGER, 1)
    finally:
        keras.config.set_dtype_policy(usual)
    assert len(made) == 5
    assert {layer.compute_dtype for layer in made} == {"float32"}


def test_what_is_off_adds_no_layer():
    assert common_layers.augmentation_layers(OFF, 1) == []
    assert common_layers.augmentation_layers(only(), 1) == []
    names = [layer.name for layer in common_layers.augmentation_layers(only(contrast=0.1), 1)]
    assert names == ["random_contrast"]


def test_colours_are_left_alone_unless_the_configuration_says_otherwise():
    for name in ("demo", "ham10000", "ham10000_lite", "ham10000_seven"):
        assert config.load_config(f"configs/{name}.yaml").augmentation.color_jitter is None


# ------------------------------------------------------------------------------------- the draws


def test_the_same_seed_draws_the_same_and_another_draws_another(images):
    batch = images / np.float32(255)
    np.testing.assert_array_equal(draw(batch, STRONGER, 1), draw(batch, STRONGER, 1))
    assert np.abs(draw(batch, STRONGER, 1) - draw(batch, STRONGER, 2)).max() > 0.1


def test_two_models_of_one_seed_train_on_the_same_draws(images):
    def seen(seed):
        model = network(STRONGER, seed)
        last = keras.Model(model.input, model.get_layer("random_hue").output)
        return [keras.ops.convert_to_numpy(last(images, training=True)) for _ in range(2)]

    first, again, other = seen(1), seen(1), seen(2)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first[0], other[0])
    assert not np.allclose(*first), "each batch is drawn anew"


@pytest.mark.parametrize("settings", [PAPER, only(**MILD.model_dump())], ids=["shape", "colour"])
def test_each_image_of_a_batch_has_its_own_draws(images, settings):
    drawn = draw(np.repeat(images[:1], 8, axis=0) / np.float32(255), settings)
    for i in range(8):
        for j in range(i):
            assert np.abs(drawn[i] - drawn[j]).max() > 0.004, (i, j)


def test_a_chain_of_one_seed_does_not_draw_the_same_number_in_each_layer(plain):
    """Brightness and contrast that went up and down together would be one change, not two."""
    half = plain.copy()
    half[:, :2] *= 0.5
    drawn = draw(half, only(brightness=0.05, contrast=0.1))
    brightness, contrast = drawn.mean(axis=(1, 2, 3)), np.ptp(drawn, axis=(1, 2)).mean(axis=1)
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.2


# ------------------------------------------------------------------------------------- the labels


def test_every_image_keeps_its_label_through_a_training():
    """The images are red, green or blue, and the model says which: it must always be right."""
    targets = np.random.default_rng(1).integers(3, size=50)
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]], np.uint8)[targets]
    images = np.broadcast_to(colours[:, None, None], (50, 16, 16, 3))
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for layer in common_layers.augmentation_layers(STRONGER, 1):
        x = layer(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    as_it_is = {"use_bias": False, "kernel_initializer": "identity"}
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax", **as_it_is)(x))
    optimizer = keras.optimizers.SGD(0.0)
    model.compile(optimizer, "categorical_crossentropy", metrics=["categorical_accuracy"])
    batches = batching.Batches(images, np.arange(50), targets, np.ones(3), 8, seed=2)
    history = model.fit(batches, epochs=2, verbose=0).history
    assert history["categorical_accuracy"] == [1, 1]
    assert history["loss"][0] != history["loss"][1], "the colours were drawn anew"


def test_kept_views_of_an_image_are_its_own(tmp_path):
    """View v of the i-th row lies at v * n + i, whatever was drawn."""
    levels = np.array([30, 90, 150, 210, 250], np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (5, 16, 16, 3))
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    x = keras.layers.Rescaling(1.0)(inputs)
    for layer in common_layers.augmentation_layers(STRONGER, 1, white=255.0):
        x = layer(x)
    trunk = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    rows = np.array([4, 0, 2])
    made = feature_cache.cache_features(trunk, images, rows, tmp_path / "f", views=4, batch_size=2)
    views = made[0].reshape(4, 3, 3).astype(float)
    np.testing.assert_allclose(views[0], np.repeat(levels[rows, None], 3, axis=1), atol=0.1)
    np.testing.assert_allclose(views, np.broadcast_to(views[:1], views.shape), atol=13)
    assert np.abs(views[1:] - views[0]).min(axis=2).max() > 1, "further views are augmented"


# ------------------------------------------------------------------------------------- no wedges


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_a_turned_and_zoomed_image_of_one_colour_stays_that_colour(white):
    settings = PAPER.model_copy(update={"zoom": 0.49})
    batch = np.broadcast_to(PINK / 255 * white, (32, 64, 64, 3)).astype(np.float32)
    drawn = draw(batch, settings, white=white)
    np.testing.assert_allclose(drawn, batch, atol=white / 255 / 10)


def test_turning_and_zooming_do_change_an_image(images):
    batch = images / np.float32(255)
    for change in ({"rotation_degrees": 180}, {"zoom": 0.49}, {"flip": "horizontal_and_vertical"}):
        assert np.abs(draw(batch, OFF.model_copy(update=change)) - batch).max() > 0.1, change


def test_flips_alone_move_pixels_and_do_not_blur_them(images):
    batch = np.repeat(images[:1], 40, axis=0) / np.float32(255)
    drawn = draw(batch, OFF.model_copy(update={"flip": "horizontal_and_vertical"}))
    flips = [batch[0, ::y, ::x] for y in (1, -1) for x in (1, -1)]
    which = [[np.abs(view - flip).max() < 1e-4 for flip in flips] for view in drawn]
    np.testing.assert_array_equal(np.sum(which, axis=1), 1)
    assert np.all(np.sum(which, axis=0) > 3), "each flip is drawn"


def test_rotation_and_zoom_stay_within_what_the_configuration_says():
    """The pixels hold their own coordinates, so differences between neighbours are the matrix."""
    y, x = np.mgrid[0:33, 0:33].astype(np.float32)
    batch = np.repeat(np.stack([x, y, 0 * x], axis=2)[None], 500, axis=0)
    settings = OFF.model_copy(update={"rotation_degrees": 30, "zoom": 0.2})
    drawn = draw(batch, settings)
    np.testing.assert_allclose(drawn[:, 16, 16], batch[:, 16, 16], atol=1e-3)
    x_step = drawn[:, 16, 17] - drawn[:, 16, 16]
    y_step = drawn[:, 17, 16] - drawn[:, 16, 16]
    np.testing.assert_allclose(x_step[:, 0], y_step[:, 1], atol=1e-3)
    np.testing.assert_allclose(x_step[:, 1], -y_step[:, 0], atol=1e-3)
    degrees = np.degrees(np.arctan2(x_step[:, 1], x_step[:, 0]))
    scale = np.hypot(x_step[:, 0], x_step[:, 1])
    for values, low, high in ((degrees, -30, 30), (scale, 0.8, 1.2)):
        reach = (high - low) / 50
        assert low - 0.01 < values.min() < low + reach
        assert high + 0.01 > values.max() > high - reach
    assert abs(np.corrcoef(degrees, scale)[0, 1]) < 0.2, "drawn independently"


def coordinates(**changes):
    """Draw 500 images whose pixels hold their own x and y; return the matrices and the shifts.

    Differences between neighbours are the matrix, from which the middle is moved.
    """
    y, x = np.mgrid[0:33, 0:33].astype(np.float32)
    batch = np.repeat(np.stack([x, y, 0 * x], axis=2)[None], 500, axis=0)
    drawn = draw(batch, OFF.model_copy(update=changes))
    columns = [drawn[:, 16, 17, :2], drawn[:, 17, 16, :2]]
    matrices = np.stack([column - drawn[:, 16, 16, :2] for column in columns], axis=2)
    return matrices, drawn[:, 16, 16, :2] - 16


def fills(values, low, high):
    """Say whether values reach both ends of a range and do not leave it."""
    reach = (high - low) / 40
    return low - 1e-3 < values.min() < low + reach and high - reach < values.max() < high + 1e-3


def test_a_shear_moves_rows_sideways_and_nothing_else():
    matrices, shifts = coordinates(shear=0.15)
    assert fills(matrices[:, 0, 1], -0.15, 0.15)
    np.testing.assert_allclose(matrices[:, 0, 0], 1, atol=1e-3)
    np.testing.assert_allclose(matrices[:, 1], np.broadcast_to([0, 1], (500, 2)), atol=1e-3)
    np.testing.assert_allclose(shifts, 0, atol=1e-3)


def test_a_shift_moves_each_axis_by_itself_and_keeps_the_shape():
    matrices, shifts = coordinates(shift=0.1)
    np.testing.assert_allclose(matrices, np.broadcast_to(np.eye(2), (500, 2, 2)), atol=1e-3)
    assert fills(shifts[:, 0], -3.3, 3.3)
    assert fills(shifts[:, 1], -3.3, 3.3)
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.2


def test_the_ratio_of_width_to_height_changes_and_the_area_does_not():
    matrices, _ = coordinates(aspect=0.21)
    width, height = matrices[:, 0, 0], matrices[:, 1, 1]
    np.testing.assert_allclose(width * height, 1, atol=1e-3)
    assert fills(height / width, 1 / 1.21, 1.21)


def test_all_changes_of_shape_are_made_by_one_matrix_rotation_last():
    """Turned back, what is left is an upper triangle: scales, and the shear above the diagonal."""
    matrices, _ = coordinates(rotation_degrees=180, zoom=0.2, shear=0.15, aspect=0.1)
    degrees = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    back = np.array([[np.cos(degrees), np.sin(degrees)], [-np.sin(degrees), np.cos(degrees)]])
    triangles = np.einsum("ijn,njk->nik", back, matrices)
    np.testing.assert_allclose(triangles[:, 1, 0], 0, atol=1e-3)
    assert np.abs(triangles[:, 0, 1] / triangles[:, 1, 1]).max() < 0.151


def test_without_shear_shift_and_aspect_the_draws_are_those_of_before_there_were_any(images):
    """Networks were trained and published with them; this is the formula of that time."""
    ops, batch = keras.ops, images / np.float32(255)
    generator = keras.random.SeedGenerator(7)

    def drawn(center, reach):
        return keras.random.uniform((4,), center - reach, center + reach, seed=generator)

    angle, scale = 2 * np.pi * drawn(0, 0.5), drawn(1, 0.1)
    x_scale, y_scale = (ops.where(drawn(0, 1) < 0, -scale, scale) for _ in range(2))
    a, b = x_scale * ops.cos(angle), -y_scale * ops.sin(angle)
    d, e = x_scale * ops.sin(angle), y_scale * ops.cos(angle)
    middle = 255 / 2
    rows = [a, b, middle - a * middle - b * middle, d, e, middle - d * middle - e * middle]
    transform = ops.stack([*rows, 0 * angle, 0 * angle], axis=1)
    expected = ops.image.affine_transform(batch, transform, "bilinear", "reflect")
    np.testing.assert_array_equal(draw(batch, PAPER, seed=7), ops.convert_to_numpy(expected))


# ------------------------------------------------------------------------------ how much colour


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_each_channel_has_its_own_gain_of_no_more_than_the_configuration_says(plain, white):
    drawn = draw(plain * white, only(channels=0.06), white=white)
    gains = drawn[:, 0, 0] / (plain[:, 0, 0] * white)
    assert np.ptp(drawn, axis=(1, 2)).max() < 1e-3, "the same everywhere in an image"
    for channel in range(3):
        assert fills(gains[:, channel], 0.94, 1.06)
    assert np.abs(np.corrcoef(gains.T) - np.eye(3)).max() < 0.2, "drawn independently"
    bright = np.full_like(plain, white)
    assert draw(bright, only(channels=0.06), white=white).max() == white


def test_brightness_is_shifted_by_no_more_than_the_configuration_says(plain):
    shift = draw(plain, only(brightness=0.05)) - plain
    assert np.ptp(shift, axis=(1, 2, 3)).max() < 1e-6, "the same everywhere in an image"
    assert 0.045 < shift.max() <= 0.0501
    assert -0.045 > shift.min() >= -0.0501


def test_contrast_grows_or_shrinks_by_no_more_than_the_configuration_says(plain):
    half = plain.copy()
    half[:, :2] *= 0.5
    drawn = draw(half, only(contrast=0.1))
    np.testing.assert_allclose(drawn.mean(axis=(1, 2)), half.mean(axis=(1, 2)), atol=1e-5)
    share = np.ptp(drawn, axis=(1, 2)) / np.ptp(half, axis=(1, 2))
    assert 0.8999 <= share.min() < 0.91
    assert 1.09 < share.max() <= 1.1001


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_saturation_grows_or_shrinks_by_no_more_than_the_configuration_says(plain, white):
    drawn = draw(plain * white, only(saturation=0.1), white=white)
    hue, saturation = hue_and_saturation(drawn[:, 0, 0] / white)
    expected_hue, expected = hue_and_saturation(PINK / 255)
    np.testing.assert_allclose(hue, expected_hue[0], atol=0.1)
    np.testing.assert_allclose(drawn.max(axis=3), plain.max(axis=3) * white, rtol=1e-5)
    assert 0.8999 <= (saturation / expected).min() < 0.91
    assert 1.09 < (saturation / expected).max() <= 1.1001


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_hue_is_turned_either_way_by_no_more_than_the_configuration_says(plain, white):
    drawn = draw(plain * white, only(hue_degrees=4), white=white)
    hue, saturation = hue_and_saturation(drawn[:, 0, 0] / white)
    expected, expected_saturation = hue_and_saturation(PINK / 255)
    np.testing.assert_allclose(saturation, expected_saturation[0], atol=1e-3)
    assert 3.8 < (hue - expected).max() <= 4.01
    assert -3.8 > (hue - expected).min() >= -4.01


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_jitter_stays_within_the_range_of_values_and_is_the_same_in_both_ranges(images, white):
    most = only(brightness=0.1, contrast=0.3, saturation=0.3, hue_degrees=8, channels=0.1)
    extremes = np.where(images > 127, np.float32(1), np.float32(0))  # pure colours, all saturated
    drawn = draw(extremes * np.float32(white), most, white=white)
    assert drawn.min() >= 0
    assert drawn.max() <= white * (1 + 1e-6)
    np.testing.assert_allclose(drawn / white, draw(extremes, most), atol=1e-4)


def test_the_most_that_the_configuration_allows_leaves_pink_skin_pink(plain):
    most = only(brightness=0.1, contrast=0.3, saturation=0.3, hue_degrees=8, channels=0.1)
    drawn = draw(plain, most)[:, 0, 0]
    assert np.abs(drawn - PINK / 255).max() < 0.25
    assert (np.argmax(drawn, axis=1) == 0).all()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("brightness", 0.11),
        ("contrast", 0.31),
        ("saturation", 0.31),
        ("hue_degrees", 9),
        ("channels", 0.11),
    ],
)
def test_more_than_that_is_refused(key, value):
    with pytest.raises(ValueError, match=f"{key}\n.*less than or equal to"):
        config.ColorJitter(**{key: value})


def test_the_limits_stay_below_what_differs_between_real_images(ham10000):
    """Jitter stays near what light and camera change; hue, below what lesion and skin differ by."""

    def measure(path):
        image = decode.read_image(ham10000 / path).astype(np.float32) / 255
        lesion = decode.read_mask(ham10000 / masks[path.stem])
        outside = cv2.dilate(lesion.astype(np.uint8), np.ones((15, 15))) == 0
        if outside.sum() < 2000 or lesion.sum() < 500:
            return None
        colours = np.array([np.median(image[where], axis=0) for where in (outside, lesion)])
        hue, saturation = hue_and_saturation(colours)
        contrast = image.mean(axis=2).std()
        return colours[0].mean(), saturation[0], contrast, abs((hue[1] - hue[0] + 180) % 360 - 180)

    files = sorted((ham10000 / "images").glob("*.jpg"))[::20]
    masks = datasets.find_masks(ham10000, [file.stem for file in files])
    measured = [measure(file.relative_to(ham10000)) for file in files if file.stem in masks]
    brightness, saturation, contrast, hue = np.array([each for each in measured if each]).T
    assert len(hue) > 250
    limits = {name: field.metadata[1].le for name, field in config.ColorJitter.model_fields.items()}
    assert limits["brightness"] < 2 * brightness.std()
    assert limits["saturation"] < saturation.std() / saturation.mean()
    assert limits["contrast"] < contrast.std() / contrast.mean()
    assert limits["hue_degrees"] < np.median(hue)
