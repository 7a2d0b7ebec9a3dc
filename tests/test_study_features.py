"""The feature store of the studies: nothing is computed twice, and a killed run resumes."""

import numpy as np
import pytest

from lib.networks import vgg16_weights
from lib.networks.backend import keras
from studies import features

PICTURES = list(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8))


def colours(pictures):
    """Cheap features: the mean colour."""
    return pictures.mean(axis=(1, 2)).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "features.npz"


def test_the_same_pixels_are_computed_once(file):
    computed = []

    def forward(pictures):
        computed.append(len(pictures))
        return colours(pictures)

    store = features.FeatureStore(file, forward, "m")
    first = store.add([PICTURES[0], PICTURES[1], PICTURES[0].copy()])
    second = store.add([PICTURES[1], PICTURES[2]])
    assert computed == [2, 1] and len(store) == 3
    assert first[0] == first[2] and first[1] == second[0]
    expected = colours(np.stack(PICTURES[:3])).astype(np.float16)
    np.testing.assert_array_equal(store.get([*first[:2], second[1]]), expected)


def test_a_killed_run_resumes_with_the_same_features(file, monkeypatch):
    monkeypatch.setattr(features, "SAVE_EVERY", 0)
    killed = features.FeatureStore(file, colours, "m")
    killed.add(PICTURES[:3])

    def forward(pictures):
        assert len(pictures) == 2, "three of five were saved"
        return colours(pictures)

    resumed = features.FeatureStore(file, forward, "m")
    keys = resumed.add(PICTURES)
    whole = features.FeatureStore(file.with_name("other.npz"), colours, "m")
    assert whole.add(PICTURES) == keys
    np.testing.assert_array_equal(resumed.get(keys), whole.get(keys))
    assert resumed.seconds > killed.seconds > 0


def test_features_of_another_model_are_not_used(file, capsys):
    store = features.FeatureStore(file, colours, "one")
    store.add(PICTURES)
    store.save()
    other = features.FeatureStore(file, lambda x: 0 * colours(x), "other")
    assert "of another model, recomputed" in capsys.readouterr().out
    assert not other.get(other.add(PICTURES)).any()


def test_features_are_float32_and_the_number_format_is_restored(monkeypatch):
    monkeypatch.setattr(vgg16_weights, "load_backbone_weights", lambda *_: None)
    previous = keras.config.dtype_policy().name
    forward, name = features.load_features_model(64, 32, "mixed_bfloat16")
    assert keras.config.dtype_policy().name == previous != "mixed_bfloat16"
    values = forward(np.full((2, 64, 64, 3), 200, np.uint8))
    assert (values.shape, values.dtype) == ((2, 1280), np.float32)
    assert name.endswith(" 32 mixed_bfloat16")
