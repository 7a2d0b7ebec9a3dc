"""Number formats: chosen by the processor, used in the block alone, safe in sixteen bits."""

import os

import numpy as np
import pandas as pd
import pytest

from lib import config
from lib.networks import backend, batching, devices, model_graph, training
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


# ------------------------------------------------------------------------------------------ auto


@pytest.mark.parametrize(
    ("gpus", "flags", "native"),
    [
        ([], "sse avx512f amx_bf16", True),
        ([], "sse avx512_bf16", True),
        ([], "sse avx2 avx512f", False),
        ([], "", False),
        ([("A100", 8)], "sse", True),
        ([("T4", 7)], "sse avx512_bf16", False),
        ([("H100", 9), ("T4", 7)], "sse", False),
    ],
)
def test_bfloat16_is_native_by_the_gpu_or_without_one_by_the_processor(
    monkeypatch, gpus, flags, native
):
    monkeypatch.setattr(backend, "_gpus", lambda: gpus)
    monkeypatch.setattr(backend, "_cpu_info", lambda field: {"flags": flags}[field])
    assert backend.computes_bfloat16() == native


@pytest.mark.parametrize(("native", "number_format"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_where_it_is_native(monkeypatch, native, number_format):
    monkeypatch.setattr(devices, "computes_bfloat16", lambda: native)
    assert devices.build(network, settings("auto")).get_layer("hidden").compute_dtype == (
        number_format
    )


def test_the_machine_is_described():
    assert f"{os.cpu_count()} cores" in backend.machine()
    assert backend.processor() in backend.machine()
    assert isinstance(backend.computes_bfloat16(), bool)


def test_numbers_of_threads_that_were_set_are_recorded(monkeypatch):
    assert "OMP_NUM_THREADS" not in backend.machine() or "OMP_NUM_THREADS" in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS=3" in backend.machine()


def test_the_cache_folder_is_recorded_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("SKIN_CACHE", str(tmp_path / "weights"))
    assert "cache folder weights" in backend.machine().split(", ")
    assert str(tmp_path) not in backend.machine(), "no path of a machine is published"


# ----------------------------------------------------------------------------------------- build


@pytest.mark.parametrize("number_format", devices.POLICIES)
def test_a_network_is_built_in_the_format_that_is_named(number_format):
    model = devices.build(network, settings(number_format))
    assert model.get_layer("hidden").compute_dtype == number_format
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}
    assert model.get_layer("probabilities").compute_dtype == "float32"


def test_first_weights_depend_on_the_seed_alone():
    first = devices.build(unseeded, settings("float32"), seed=5)
    unseeded()
    again = devices.build(unseeded, settings("auto"), seed=5)
    other = devices.build(unseeded, settings("float32"), seed=6)
    for one, two in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.get_weights()[0], other.get_weights()[0])


# ---------------------------------------------------------------------------------------- policy


def test_the_format_holds_within_the_block_alone():
    usual = keras.config.dtype_policy().name
    with devices.policy("bfloat16"):
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        with devices.policy("float32"):
            assert keras.config.dtype_policy().name == "float32"
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert keras.config.dtype_policy().name == usual


def test_the_format_is_put_back_after_an_error():
    usual = keras.config.dtype_policy().name

    def fail():
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        raise RuntimeError("no such network")

    with pytest.raises(RuntimeError, match="no such network"):
        devices.build(fail, settings("bfloat16"))
    assert keras.config.dtype_policy().name == usual


def test_an_unknown_format_changes_nothing():
    usual = keras.config.dtype_policy().name
    with pytest.raises(KeyError), devices.policy("float8"):
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
    return pd.DataFrame(training.fit(model, *parts, stage, **options))


@pytest.mark.parametrize(
    ("number_format", "scaled"), [("float32", False), ("bfloat16", False), ("float16", True)]
)
def test_only_float16_scales_the_loss(tmp_path, number_format, scaled):
    model = devices.build(network, settings(number_format))
    fit(model, tmp_path, batches(size=4), epochs=1)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == scaled


@pytest.fixture
def part():
    """A part cut out of a network in float16, and batches for it."""
    model = devices.build(network, settings("float16"))
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
        return devices.build(network, settings("float16"))

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
