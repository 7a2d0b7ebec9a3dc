"""Frozen VGG16 features of pictures: computed once per picture, saved on the way."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lib import paths
from lib.networks import common_layers, inference, model_graph, vgg16, vgg16_weights
from lib.networks.backend import keras

SAVE_EVERY = 120  # seconds


def load_features_model(
    image_size: int, input_size: int | None = None, number_format: str = "float32"
) -> tuple[Callable, str]:
    """Build frozen VGG16 with ImageNet's weights.

    Parameters
    ----------
    image_size, input_size : int
        Pixels: of the pictures, and of what VGG16 sees; the same by default.
    number_format : str
        Keras's dtype policy, such as "mixed_bfloat16".

    Returns
    -------
    forward : callable
        From pictures, ndarray of uint8, shape (n, image_size, image_size, 3), to features, ndarray
        of float32, shape (n, 1280).
    name : str
        Differs wherever the features would differ: weights, size, number format.
    """
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(number_format)
    try:
        model = vgg16_features(image_size, input_size=input_size)
    finally:
        keras.config.set_dtype_policy(previous)
    vgg16_weights.load_backbone_weights(model, "VGG16")
    name = f"vgg16 {model_graph.weights_digest(model)} {input_size or image_size} {number_format}"
    return lambda pictures: inference.forward(model, pictures), name


class FeatureStore:
    """Features by the SHA-256 of the pixels, in a file that a killed run resumes from.

    Parameters
    ----------
    file : Path
        `*.npz`; reused if it was computed by the same model, and started afresh otherwise.
    forward, model : callable, str
        From `load_features_model`.

    Attributes
    ----------
    seconds : float
        Computing time of all runs together.
    """

    def __init__(self, file: Path, forward: Callable, model: str):
        self.file, self.forward, self.model = file, forward, model
        self.features: dict[str, np.ndarray] = {}
        self.seconds = 0.0
        if file.is_file():
            self._read()
        self.saved = time.monotonic()

    def __len__(self) -> int:
        return len(self.features)

    def add(self, pictures: list[np.ndarray]) -> list[str]:
        """Return the key of each picture; compute the features of those that are new."""
        started = time.monotonic()
        keys = [hashlib.sha256(picture).hexdigest() for picture in pictures]
        new = {
            key: picture
            for key, picture in zip(keys, pictures, strict=True)
            if key not in self.features
        }
        if new:
            values = self.forward(np.stack(list(new.values()))).astype(np.float16)
            self.features |= dict(zip(new, values, strict=True))
        self.seconds += time.monotonic() - started
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()
        return keys

    def get(self, keys) -> np.ndarray:
        """Return the features of some keys, ndarray of float32, shape (n, 1280)."""
        return np.stack([self.features[key] for key in keys]).astype(np.float32)

    def save(self) -> None:
        """Write the file whole or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = paths.temporary(self.file)
        np.savez(
            partial,
            model=np.array(self.model),
            keys=np.array(list(self.features)),
            features=np.stack(list(self.features.values())),
            seconds=np.array(self.seconds),
        )
        os.replace(partial, self.file)
        self.saved = time.monotonic()

    def _read(self) -> None:
        with np.load(self.file) as stored:
            if str(stored["model"]) != self.model:
                print(f"{paths.relative(self.file)}: of another model, recomputed", flush=True)
                return
            self.features = dict(zip(stored["keys"].tolist(), stored["features"], strict=True))
            self.seconds = float(stored["seconds"])


def vgg16_features(
    image_size: int, blocks: tuple[int, ...] = (3, 4, 5), input_size: int | None = None
) -> keras.Model:
    """Build VGG16 up to the averages of some blocks' last maps: features for a linear classifier.

    The averages are computed in float32, whatever number format the convolutions have.

    Parameters
    ----------
    input_size : int, optional
        Side in pixels that images are resized to inside the model; by default `image_size`.

    Returns
    -------
    keras.Model
        From uint8 RGB images, shape (n, image_size, image_size, 3), to features, shape
        (n, 1280) for blocks 3 (256 values), 4 (512) and 5 (512).
    """
    inputs, x = common_layers.image_input(
        image_size, None, seed=0, white=255.0, size=input_size or image_size
    )
    # in the model's number format: reports/studies/preprocessing/ was computed so
    x = keras.ops.cast(x, keras.config.dtype_policy().compute_dtype)
    backbone = vgg16.backbone_layers("VGG16", input_tensor=vgg16.expected_input("VGG16", x))
    maps = {f"block{block}_pool": backbone[f"block{block}_pool"].output for block in blocks}
    averages = [
        keras.layers.GlobalAveragePooling2D(name=f"{name}_average", **common_layers.EXACT)(tensor)
        for name, tensor in maps.items()
    ]
    if len(averages) > 1:
        averages = [keras.layers.Concatenate(name="features", **common_layers.EXACT)(averages)]
    return keras.Model(inputs, averages[0], name="vgg16_features")
