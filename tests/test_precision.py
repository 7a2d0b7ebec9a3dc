"""Number formats: chosen by a measurement, used in the block alone, safe in sixteen bits."""

import numpy as np
import pytest

from lib import config
from lib.networks import batching, model_graph, precision, training
from lib.networks.backend import keras


def network(outputs=3):
    keras.utils.set_random_seed(1)
    return unseeded(outputs)


def unseeded(outputs=3):
    inputs = keras.Input((4, 4, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255, dtype="float32")(inputs)
    x = keras.layers.Dense(8, activation="relu", name="hidden")(keras.layers.Flatten()(x))
    x = keras.layers.Dense(outputs, activation="softmax", dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, x)


def settings(number_format):
    return config.Training(precision=number_format)


@pytest.fixture
def speeds(monkeypatch):
    """Give each format the speed that a test says."""

    def give(**said):
        monkeypatch.setattr(precision, "step_speed", lambda _, name: said[name])

    return give


# ---------------------------------------------------------------------------------------- choice


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ({"float32": 100.0, "bfloat16": 119.0}, "float32"),
        ({"float32": 100.0, "bfloat16": 121.0}, "bfloat16"),
        ({"float32": 100.0, "bfloat16": 30.0}, "float32"),
        ({"float32": 100.0, "bfloat16": 125.0, "float16": 130.0}, "float16"),
        ({"float32": 100.0, "bfloat16": 130.0, "float16": 125.0}, "bfloat16"),
        ({"float32": 100.0, "bfloat16": 119.0, "float16": 119.5}, "float32"),
        ({"float32": 100.0}, "float32"),
    ],
)
def test_another_format_is_taken_only_if_it_is_a_fifth_faster(speeds, chosen):
    assert precision.choose(speeds) == chosen


@pytest.mark.parametrize(("graphics_processors", "there"), [(0, False), (2, True)])
def test_float16_is_tried_only_with_a_graphics_processor(monkeypatch, graphics_processors, there):
    monkeypatch.setattr(precision, "devices", lambda kind: {"gpu": graphics_processors}[kind])
    assert ("float16" in precision.candidates()) == there
    assert precision.candidates()[:2] == ["float32", "bfloat16"]


def test_the_backend_says_how_many_devices_there_are():
    assert precision.devices("cpu") >= 1
    assert precision.devices("gpu") >= 0


# ----------------------------------------------------------------------------------------- build


@pytest.mark.parametrize("number_format", precision.POLICIES)
def test_a_network_is_built_in_the_format_that_is_named(speeds, number_format):
    speeds()  # nothing is timed
    model, table = precision.build(network, settings(number_format))
    hidden = model.get_layer("hidden")
    assert hidden.compute_dtype == number_format
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}
    assert model.get_layer("probabilities").compute_dtype == "float32"
    assert table["precision"].tolist() == [number_format]
    assert table["chosen"].tolist() == [True]
    assert table["images_per_second"].isna().all()


@pytest.mark.parametrize(("speed", "chosen"), [(119.0, "float32"), (121.0, "bfloat16")])
def test_auto_takes_what_was_measured_and_says_so(speeds, monkeypatch, speed, chosen):
    monkeypatch.setattr(precision, "on_gpu", lambda: False)
    speeds(float32=100.0, bfloat16=speed)
    model, table = precision.build(network, settings("auto"))
    assert model.get_layer("hidden").compute_dtype == chosen
    assert table["precision"].tolist() == ["float32", "bfloat16"]
    assert table["images_per_second"].tolist() == [100.0, speed]
    assert table.loc[table["chosen"], "precision"].tolist() == [chosen]


def test_what_was_measured_is_kept_and_not_measured_again_on_this_machine(
    speeds, monkeypatch, tmp_path
):
    monkeypatch.setattr(precision, "on_gpu", lambda: False)
    speeds(float32=100.0, bfloat16=150.0)
    note = tmp_path / "precision.json"
    precision.build(network, settings("auto"), note=note)
    speeds(float32=100.0, bfloat16=90.0)  # a busier moment
    model, _ = precision.build(network, settings("auto"), note=note)
    assert model.get_layer("hidden").compute_dtype == "bfloat16"
    larger, _ = precision.build(lambda: network(outputs=4), settings("auto"), note=note)
    assert larger.get_layer("hidden").compute_dtype == "float32"
    speeds(float32=100.0, bfloat16=150.0)
    precision.build(network, settings("auto"), note=note)
    speeds(float32=100.0, bfloat16=90.0)
    monkeypatch.setattr(precision, "machine", lambda: "another")
    model, _ = precision.build(network, settings("auto"), note=note)
    assert model.get_layer("hidden").compute_dtype == "float32"


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"of": {}}', "\x00"])
def test_a_damaged_note_is_named_and_the_formats_are_measured_anew(
    speeds, monkeypatch, tmp_path, capsys, damaged
):
    monkeypatch.setattr(precision, "on_gpu", lambda: False)
    note = tmp_path / "precision.json"
    note.write_text(damaged)
    speeds(float32=100.0, bfloat16=150.0)
    precision.build(network, settings("auto"), note=note)
    assert "precision.json: damaged, so the formats are measured anew" in capsys.readouterr().out
    speeds()  # nothing is timed
    model, _ = precision.build(network, settings("auto"), note=note)
    assert model.get_layer("hidden").compute_dtype == "bfloat16"


def test_first_weights_depend_on_the_seed_alone():
    first, _ = precision.build(unseeded, settings("float32"), seed=5)
    unseeded()
    again, _ = precision.build(unseeded, settings("auto"), seed=5)
    other, _ = precision.build(unseeded, settings("float32"), seed=6)
    for one, two in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.get_weights()[0], other.get_weights()[0])


def test_auto_times_real_steps_and_leaves_no_trace():
    built = []

    def build():
        built.append(keras.config.dtype_policy().name)
        return network()

    before = [each.copy() for each in network().get_weights()]
    model, table = precision.build(build, settings("auto"))
    assert (table["images_per_second"] > 0).all()
    tried = [precision.POLICIES[name] for name in table["precision"]]
    taken = table.loc[table["chosen"], "precision"].item()
    assert built == [*tried, precision.POLICIES[taken]], "each timed, and one built to be trained"
    for weight, first in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, first)


def test_the_speed_of_a_step_is_measured_whatever_the_number_of_classes():
    for outputs in (2, 12):
        assert precision.step_speed(lambda outputs=outputs: network(outputs), "float32") > 0


# ---------------------------------------------------------------------------------------- policy


def test_the_format_holds_within_the_block_alone():
    usual = keras.config.dtype_policy().name
    with precision.policy("bfloat16"):
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        with precision.policy("float32"):
            assert keras.config.dtype_policy().name == "float32"
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert keras.config.dtype_policy().name == usual


def test_the_format_is_put_back_after_an_error():
    usual = keras.config.dtype_policy().name

    def fail():
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        raise RuntimeError("no such network")

    with pytest.raises(RuntimeError, match="no such network"):
        precision.build(fail, settings("bfloat16"))
    assert keras.config.dtype_policy().name == usual


def test_an_unknown_format_changes_nothing():
    usual = keras.config.dtype_policy().name
    with pytest.raises(KeyError), precision.policy("float8"):
        pytest.fail("the block was entered")
    assert keras.config.dtype_policy().name == usual


# --------------------------------------------------------------------------------------- float16


def batches(loss_weight=1.0, size=8):
    images = np.random.default_rng(1).integers(0, 256, (24, size, size, 3), dtype=np.uint8)
    targets = np.arange(24) % 3
    images[np.arange(24), :, :, targets] = 255

    def make(rows, seed=None):
        return batching.Batches(images, rows, targets[rows], np.full(3, loss_weight), 6, seed)

    return make(np.arange(18), seed=2), make(np.arange(18, 24))


def fit(model, folder, parts, epochs=4, learning_rate=0.01):
    stage = config.Stage(epochs=epochs, learning_rate=learning_rate)
    options = {"classes": ["a", "b", "c"], "state": folder / "t.state.npz", "stage": "test"}
    return training.fit(model, *parts, stage, **options)


@pytest.mark.parametrize(
    ("number_format", "scaled"), [("float32", False), ("bfloat16", False), ("float16", True)]
)
def test_only_float16_scales_the_loss(tmp_path, number_format, scaled):
    model, _ = precision.build(network, settings(number_format))
    fit(model, tmp_path, batches(size=4), epochs=1)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == scaled


@pytest.fixture
def part():
    """A part cut out of a network in float16, and batches for it."""
    model, _ = precision.build(network, settings("float16"))
    _, top = model_graph.split_before(model, "hidden")
    features = np.random.default_rng(1).random((24, 48), dtype=np.float32)

    def make(loss_weight):
        return [
            batching.Batches(features, each.rows, each.targets, [loss_weight] * 3, 6, each.seed)
            for each in batches()
        ]

    return top, make


def moved(model, folder, parts):
    """Train; return how far the first weights have come, beyond the rounding at the end."""
    before = model.get_layer("hidden").get_weights()[0].astype(np.float16).astype(np.float32)
    fit(model, folder, parts)
    return np.abs(model.get_layer("hidden").get_weights()[0] - before).max()


def test_a_part_cut_out_of_a_network_in_float16_scales_its_loss_as_well(tmp_path, part):
    model, make = part
    fit(model, tmp_path, make(1.0), epochs=1)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


def test_gradients_too_small_for_float16_train_all_the_same(tmp_path, part, monkeypatch):
    """Below 2**-25 float16 rounds them to zero; Adam makes small steps of them."""
    model, make = part
    first = model.get_weights()
    assert moved(model, tmp_path / "scaled", make(2e-7)) > 2e-4
    model.set_weights(first)
    adam = keras.optimizers.Adam(0.01)
    monkeypatch.setattr(training, "_optimizer", lambda *_: adam)
    assert moved(model, tmp_path / "plain", make(2e-7)) == 0


def test_a_training_in_float16_that_was_broken_off_ends_as_an_unbroken_one(tmp_path):
    class PowerCut(Exception):
        pass

    class Broken(batching.Batches):
        def start_epoch(self, epoch):
            if epoch == 2:
                raise PowerCut
            super().start_epoch(epoch)

    def build():
        return precision.build(network, settings("float16"))[0]

    unbroken, broken = build(), build()
    history = fit(unbroken, tmp_path / "unbroken", batches(size=4))
    train, validation = batches(size=4)
    dying = Broken(train.inputs, train.rows, train.targets, np.ones(3), 6, seed=2)
    with pytest.raises(PowerCut):
        fit(broken, tmp_path / "broken", (dying, validation))
    again = build()
    gone_on = fit(again, tmp_path / "broken", batches(size=4))
    assert gone_on["loss"].tolist() == history["loss"].tolist()
    assert not np.isnan(history["loss"]).any()
    for weight, whole in zip(again.get_weights(), unbroken.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, whole)
    scale = again.optimizer.dynamic_scale, unbroken.optimizer.dynamic_scale
    assert float(scale[0].value) == float(scale[1].value) > 1
