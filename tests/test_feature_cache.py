"""Features of frozen layers: computed once, kept whole, gone on with after a kill."""

import collections
import json
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib import config, paths
from lib.networks import array_files, common_layers, devices, feature_cache, inference, model_graph
from lib.networks.backend import keras

MOVING = config.Augmentation(rotation_degrees=180, zoom=0.2, flip="horizontal_and_vertical")
IMAGES = np.random.default_rng(1).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
ROWS = np.array([3, 1, 4, 15, 9, 2, 6])


def network(seed=0, scale=1.0):
    """A trunk of two outputs, maps and averages, with random layers before them."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Rescaling(scale / 255)(inputs)
    for layer in common_layers.augmentation_layers(MOVING, seed=5, white=scale):
        x = layer(x)
    maps = keras.layers.Conv2D(4, 3, name="convolution")(x)
    maps = keras.layers.Dropout(0.3, seed=2)(maps)
    averages = keras.layers.GlobalAveragePooling2D()(maps)
    return keras.Model(inputs, [maps, averages])


@pytest.fixture(scope="module")
def trunk():
    return network()


@pytest.fixture
def cache(tmp_path):
    def make(trunk, images=IMAGES, rows=ROWS, views=3, batch_size=3, **options):
        target = tmp_path / "kept" / "features"
        options = {"views": views, "batch_size": batch_size} | options
        return feature_cache.cache_features(trunk, images, rows, target, **options)

    return make


@pytest.fixture
def calls(monkeypatch):
    """Count the batches that go through a network."""
    made, usual = [], inference.call

    def counted(model, batch, training=False):
        made.append(len(batch))
        return usual(model, batch, training)

    monkeypatch.setattr(inference, "call", counted)
    return made


def states(trunk):
    return [model_graph.to_numpy(state).tolist() for state in model_graph.random_states(trunk)]


# ---------------------------------------------------------------------------------------- contents


def test_every_output_is_kept_in_half_precision_view_after_view(trunk, cache, tmp_path):
    maps, averages = cache(trunk)
    assert (maps.shape, averages.shape) == ((21, 6, 6, 4), (21, 4))
    for i, output in enumerate((maps, averages)):
        assert output.dtype == np.float16
        assert isinstance(output, np.memmap)
        np.testing.assert_array_equal(np.load(tmp_path / f"kept/features_{i}.npy"), output)
    plain = inference.call(trunk, IMAGES[ROWS])
    np.testing.assert_allclose(maps[:7], plain[0], atol=1e-3)
    np.testing.assert_allclose(averages[:7], plain[1], atol=1e-3)


def test_each_further_view_is_another_augmentation(trunk, cache):
    _, averages = cache(trunk)
    views = averages.reshape(3, 7, 4).astype(np.float32)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (abs(views[a] - views[b]).max(axis=1) > 1e-3).all(), "of every image"


def test_views_without_augmentation_are_the_flips_and_quarter_turns(trunk, cache):
    maps, averages = cache(trunk, views=8, augmented=False)
    for view in range(8):
        seen = inference.call(trunk, inference.turned(IMAGES[ROWS], view))
        np.testing.assert_allclose(maps[view * 7 :][:7], seen[0], atol=1e-3)
        np.testing.assert_allclose(averages[view * 7 :][:7], seen[1], atol=1e-3)
    assert len({maps[view * 7].tobytes() for view in range(8)}) == 8


def test_a_network_of_one_output_gives_a_list_of_one(trunk, cache):
    one = keras.Model(trunk.input, trunk.outputs[1])
    (averages,) = cache(one, views=1)
    np.testing.assert_allclose(averages, inference.call(one, IMAGES[ROWS]), atol=1e-3)


@pytest.mark.parametrize(
    ("value", "said"), [(1e5, r"\d{5,6}\.?\d*"), (-1e5, r"-\d{5,6}\.?\d*"), (np.nan, "nan")]
)
def test_values_that_half_precision_cannot_hold_are_refused(cache, tmp_path, value, said):
    trunk = network()
    trunk.get_layer("convolution").bias.assign([0, 0, 0, value])
    with pytest.raises(
        ValueError, match=rf"features_0\.npy: found the value {said}; half precision ends at 65"
    ):
        cache(trunk)
    assert not (tmp_path / "kept" / "features.json").exists(), "without it, no file is read"


# ------------------------------------------------------------------------------------ taken again


def test_what_is_kept_is_taken_again(trunk, cache, calls):
    first = [np.array(each) for each in cache(trunk)]
    assert calls == [3, 3, 1] * 3
    calls.clear()
    for kept, before in zip(cache(trunk), first, strict=True):
        np.testing.assert_array_equal(kept, before)
    assert calls == []


def test_the_same_network_built_again_takes_what_is_kept(trunk, cache, calls):
    cache(trunk)
    calls.clear()
    cache(network())
    assert calls == []


CHANGES = {
    "weights": lambda: {"trunk": network(seed=1)},
    "layers": lambda: {"trunk": network(scale=2.0)},
    "images": lambda: {"images": np.where(IMAGES == IMAGES[3, 0, 0, 0], 0, IMAGES)},
    "rows": lambda: {"rows": ROWS[::-1]},
    "a row less": lambda: {"rows": ROWS[:-1]},
    "views": lambda: {"views": 2},
    "batch size": lambda: {"batch_size": 4},
    "turned, not augmented": lambda: {"augmented": False},
}


@pytest.mark.parametrize("change", CHANGES)
def test_features_of_anything_else_are_computed_anew(trunk, cache, calls, change):
    before = [np.array(each) for each in cache(trunk)]
    calls.clear()
    now = cache(**{"trunk": trunk} | CHANGES[change]())
    assert calls
    assert [each.tobytes() for each in now] != [each.tobytes() for each in before]


def test_with_other_versions_it_is_computed_anew(trunk, cache, calls, monkeypatch):
    cache(trunk)
    calls.clear()
    usual = feature_cache.versions()
    monkeypatch.setattr(feature_cache, "versions", lambda: usual | {"keras": "another"})
    cache(trunk)
    assert calls


def test_what_another_backend_has_finished_is_used_and_what_it_has_begun_is_not(
    trunk, cache, calls, tmp_path, monkeypatch
):
    usual = feature_cache.versions()
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "versions", lambda: usual | {"backend": "torch 2.8"})
        made = [np.array(each) for each in cache(trunk)]
    calls.clear()
    for one, other in zip(cache(trunk), made, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not calls
    note = tmp_path / "kept" / "features.json"
    progress = json.loads(note.read_text(encoding="utf-8"))
    note.write_text(json.dumps(progress | {"rows": 7}), encoding="utf-8")
    cache(trunk)
    assert calls


@pytest.mark.parametrize("damage", ["altered", "cut short", "missing"])
def test_a_damaged_or_missing_file_is_named_and_made_again(
    trunk, cache, calls, tmp_path, capsys, damage
):
    before = [np.array(each) for each in cache(trunk)]
    file = tmp_path / "kept" / "features_1.npy"
    contents = bytearray(file.read_bytes())
    contents[-5] ^= 1
    file.unlink()
    if damage != "missing":
        file.write_bytes(contents if damage == "altered" else contents[:-2])
    calls.clear()
    capsys.readouterr()
    for kept, first in zip(cache(trunk), before, strict=True):
        np.testing.assert_array_equal(kept, first)
    assert calls
    assert "features_1.npy: missing or damaged, so it is computed again" in capsys.readouterr().out


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", '{"key": 1, "rows": 2, "sha256": {}}'])
def test_a_damaged_note_is_no_obstacle(trunk, cache, calls, tmp_path, capsys, note):
    before = [np.array(each) for each in cache(trunk, views=1)]
    (tmp_path / "kept" / "features.json").write_text(note, encoding="utf-8")
    calls.clear()
    for kept, first in zip(cache(trunk, views=1), before, strict=True):
        np.testing.assert_array_equal(kept, first)
    assert calls
    if "rows" not in note:
        assert "features.json: damaged" in capsys.readouterr().out


def test_random_layers_draw_next_what_they_would_have_drawn(trunk, cache, calls):
    start = states(trunk)
    cache(trunk)
    assert calls
    assert states(trunk) == start, "computed now"
    cache(trunk)
    assert states(trunk) == start, "taken from the disk"
    assert len(start) == 2, "augmentation and dropout"


def test_what_is_computed_does_not_depend_on_what_was_drawn_before(trunk, cache, tmp_path):
    before = [np.array(each) for each in cache(trunk)]
    trunk(IMAGES, training=True)
    (tmp_path / "kept" / "features.json").unlink()
    for kept, first in zip(cache(trunk), before, strict=True):
        np.testing.assert_array_equal(kept, first)


# ------------------------------------------------------------------------- killed and gone on with

#: Computes features with progress written at every batch, and dies in the batch it is told to.
CHILD = """
import os, signal, sys
from pathlib import Path
from lib.networks import feature_cache, inference
from tests import test_feature_cache as given

target, last = Path(sys.argv[1]), int(sys.argv[2])
feature_cache.PROGRESS_SECONDS = 0
usual, calls = inference.call, []


def call(*arguments, **options):
    calls.append(1)
    if len(calls) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return usual(*arguments, **options)


inference.call = call
feature_cache.cache_features(
    given.network(), given.IMAGES, given.ROWS, target, views=3, batch_size=3
)
"""


def test_killed_half_way_it_goes_on_and_ends_as_if_unbroken(
    trunk, cache, calls, tmp_path, monkeypatch
):
    unbroken = [np.array(each) for each in cache(trunk)]
    target = tmp_path / "broken" / "features"
    dead = subprocess.run(
        [sys.executable, "-c", CHILD, str(target), "6"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(paths.ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    note = json.loads(target.with_name("features.json").read_text(encoding="utf-8"))
    assert note["rows"] == 13, "of 21; in the fifth batch, of 3, 3, 1, 3, 3"
    calls.clear()
    options = {"views": 3, "batch_size": 3}
    made = feature_cache.cache_features(trunk, IMAGES, ROWS, target, **options)
    assert calls == [1, 3, 3, 1], "of nine batches, five were done"
    for kept, whole in zip(made, unbroken, strict=True):
        np.testing.assert_array_equal(kept, whole)
    assert not list(target.parent.glob(".*")), "nothing is left behind"


class PowerCut(Exception):
    pass


def broken_off(monkeypatch, trunk, target, after):
    """Compute until so many batches are done, and stop there."""
    usual, done = inference.call, []

    def call(*arguments, **options):
        done.append(1)
        if len(done) > after:
            raise PowerCut
        return usual(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(inference, "call", call)
        patched.setattr(feature_cache, "PROGRESS_SECONDS", -1)
        with pytest.raises(PowerCut):
            feature_cache.cache_features(trunk, IMAGES, ROWS, target, views=3, batch_size=3)


def test_what_was_broken_off_for_other_weights_is_not_gone_on_with(
    trunk, cache, calls, tmp_path, monkeypatch
):
    broken_off(monkeypatch, network(seed=1), tmp_path / "kept" / "features", after=4)
    calls.clear()
    made = [np.array(each) for each in cache(trunk)]
    assert calls == [3, 3, 1] * 3
    np.testing.assert_allclose(made[0][:7], inference.call(trunk, IMAGES[ROWS])[0], atol=1e-3)


def test_a_disk_that_is_too_full_is_refused_before_the_work(trunk, cache, calls, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(OSError, match=r"kept: features needs 6\.22kB more; 1\.00kB are free"):
        cache(trunk)
    assert not calls


def test_with_other_code_it_is_computed_anew(trunk, cache, calls, monkeypatch):
    cache(trunk)
    calls.clear()
    monkeypatch.setattr(feature_cache, "_CODE", "another")
    cache(trunk)
    assert calls


@pytest.mark.parametrize("change", ["missing", "cut short", "altered"])
def test_what_was_broken_off_and_then_damaged_is_named_and_started_over(
    trunk, cache, calls, tmp_path, monkeypatch, capsys, change
):
    target = tmp_path / "kept" / "features"
    broken_off(monkeypatch, trunk, target, after=4)
    partial = target.with_name("features_1.npy")
    contents = bytearray(partial.read_bytes())
    contents[200] ^= 1  # among the first rows, which were finished
    partial.unlink()
    if change != "missing":
        partial.write_bytes(contents if change == "altered" else contents[:150])
    calls.clear()
    made = [np.array(each) for each in cache(trunk)]
    assert calls == [3, 3, 1] * 3
    expected = "features_1.npy: missing or damaged, so it is computed again"
    assert expected in capsys.readouterr().out
    np.testing.assert_allclose(made[1][:7], inference.call(trunk, IMAGES[ROWS])[1], atol=1e-3)


def test_random_states_are_put_back_when_it_is_broken_off(trunk, tmp_path, monkeypatch):
    start = states(trunk)
    broken_off(monkeypatch, trunk, tmp_path / "features", after=5)
    assert states(trunk) == start


def test_the_note_says_what_the_files_hold(trunk, cache, tmp_path):
    cache(trunk, views=1)
    note = json.loads((tmp_path / "kept" / "features.json").read_text(encoding="utf-8"))
    for name, digest in note["sha256"].items():
        assert array_files.file_digest(tmp_path / "kept" / name) == digest
    assert sorted(note["sha256"]) == ["features_0.npy", "features_1.npy"]


# ----------------------------------------------------------------------------------------- a run


def pretrained(precision="float32"):
    """A network like those with a pretrained backbone: random layers, two convolutions, a head."""
    keras.utils.set_random_seed(1)
    with devices.policy(precision):
        inputs = keras.Input((8, 8, 3), dtype="uint8")
        x = keras.layers.Rescaling(1 / 255, dtype="float32")(inputs)
        for layer in common_layers.augmentation_layers(MOVING, seed=5, white=1.0):
            x = layer(x)
        x = keras.layers.Conv2D(4, 3, name="conv1")(x)
        x = keras.layers.Conv2D(5, 3, name="conv2")(x)
        x = keras.layers.GlobalAveragePooling2D(name="features", dtype="float32")(x)
        x = keras.layers.Dense(6, name="dense")(x)
        x = keras.layers.Dense(2, activation="softmax", name="probabilities", dtype="float32")(x)
    return keras.Model(inputs, x)


@pytest.fixture
def small_run(tmp_path):
    """20 images in three splits, whose rows are not in the order of the splits."""
    split = np.array(["test", "train", "validation", "train"] * 5)
    index = pd.DataFrame({"split": split})
    return SimpleNamespace(
        folder=tmp_path,
        images=IMAGES,
        index=index,
        rows=lambda name: np.flatnonzero(index["split"] == name),
        held_out=index[index["split"] != "train"],
    )


def settings_of(name="small", cached=True, test_time_views=2):
    stage = SimpleNamespace(from_layer="conv2", cached=cached)
    options = {"views": 3, "batch_size": 4, "test_time_views": test_time_views}
    return SimpleNamespace(name=name, fine_tune=stage, **options)


def averages(network, images):
    return inference.forward(
        keras.Model(network.input, network.get_layer("features").output), images
    )


def test_the_features_of_a_run_are_cached_for_each_split_and_each_use(small_run):
    network = pretrained()
    cached = feature_cache.cache_run(small_run, network, settings_of())
    n = {split: len(small_run.rows(split)) for split in ("train", "validation")}
    assert cached.head["train"].shape == (3 * n["train"], 5)
    assert cached.head["validation"].shape == (n["validation"], 5)
    assert {split: maps[0].shape for split, maps in cached.fine_tune.items()} == {
        "train": (3 * n["train"], 6, 6, 4),
        "validation": (n["validation"], 6, 6, 4),
    }
    expected = averages(network, IMAGES)
    np.testing.assert_allclose(cached.plain, expected, atol=1e-3)
    held_out = small_run.held_out.index.to_numpy()
    views = [averages(network, inference.turned(IMAGES[held_out], view)) for view in (0, 1)]
    np.testing.assert_allclose(cached.held_out, np.concatenate(views), atol=1e-3)
    assert np.abs(views[0] - views[1]).max() > 0.01


def test_without_cached_maps_fine_tuning_takes_the_images(small_run):
    cached = feature_cache.cache_run(small_run, pretrained(), settings_of(cached=False))
    assert cached.fine_tune is small_run.images
    files = sorted(file.name for file in (small_run.folder / "small").glob("features_train*"))
    assert files == ["features_train.json", "features_train_0.npy"]


def test_plain_features_are_float32_s_whatever_the_precision_of_training(small_run):
    exact, half = pretrained(), pretrained("bfloat16")
    half.set_weights(exact.get_weights())
    cached = feature_cache.cache_run(small_run, half, settings_of())
    np.testing.assert_allclose(cached.plain, averages(exact, IMAGES), atol=1e-3)
    rows = small_run.rows("train")
    assert np.abs(cached.head["train"][: len(rows)] - cached.plain[rows]).max() > 1e-4


def test_plain_features_are_float32_s_where_another_backend_has_cached_rounded_ones(small_run):
    """A server with a GPU trains in bfloat16; the machine that takes over computes in float32."""
    network, folder = pretrained(), small_run.folder / "small"
    feature_cache.cache_run(small_run, network, settings_of())
    note = folder / "features_train.json"
    contents = json.loads(note.read_text(encoding="utf-8"))
    made_with = {"backend": "another 1.0", "number_formats": ["float32", "mixed_bfloat16"]}
    contents["key"]["made_with"] |= made_with
    note.write_text(json.dumps(contents), encoding="utf-8")
    cached = feature_cache.cache_run(small_run, network, settings_of())
    assert json.loads(note.read_text(encoding="utf-8")) == contents  # taken over
    assert (folder / "features_train_float32_0.npy").is_file()
    np.testing.assert_allclose(cached.plain, averages(network, IMAGES), atol=1e-3)


def test_two_networks_of_a_run_cache_their_features_in_folders_of_their_own(small_run):
    for name in ("one", "two"):
        feature_cache.cache_run(small_run, pretrained(), settings_of(name))
    files = [{file.name for file in (small_run.folder / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1] and len(files[0]) > 5
