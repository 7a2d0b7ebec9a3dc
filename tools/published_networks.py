"""Load published networks from models/<run>.

A published network is numbers and text. It is built by the code of this repository from its
settings in the manifest, gets the verified weights of its backbone and then those that
training changed, and is returned only if all its weights have the SHA-256 that they had after
training.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib import paths
from lib.config import ModelSettings, Network, Preprocessing, Training, Transfer
from lib.evaluation.calibration import Calibration
from lib.networks import array_files, building, devices, model_graph, probes, vgg16_weights
from lib.networks.backend import keras

MODELS = paths.ROOT / "models"

MANIFEST = "manifest.json"
#: Arrays of a network's file that are no weights: the fields of `probes.Space`.
SPACE = ("space/means", "space/precision")

#: The version of a manifest's schema. A manifest names what its networks need and no more, so that
#: later versions of a configuration do not concern it.
SCHEMA_VERSION = 2

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


class Refusal(BaseModel):
    """A network refuses an image if a score, of `refusal.SCORES`, is above its threshold."""

    model_config = STRICT
    thresholds: Annotated[
        dict[Literal["uncertainty", "energy", "distance"], float], Field(min_length=1)
    ]


class Model(BaseModel):
    """The entry of one network in the manifest."""

    model_config = STRICT
    title: str
    #: its item in the configuration
    settings: ModelSettings
    file: Annotated[str, Field(pattern=r"^\w+\.npz$")]
    sha256: Sha256
    bytes: int
    #: of the whole network, the backbone included
    weights_sha256: Sha256
    #: how many values the file holds
    values: int
    calibration: Calibration
    test_time_views: Annotated[int, Field(ge=1)]
    #: none if the network answers every image
    refusal: Refusal | None = None


class Manifest(BaseModel):
    """`manifest.json` of a published run."""

    model_config = STRICT
    schema_version: Literal[2]
    run: str
    title: str
    attribution: str
    #: whether the training images were drawn by a program
    synthetic: bool
    #: the full name of each class, in the order of the networks' outputs
    classes: dict[str, str]
    preprocessing: Preprocessing
    #: the class frequencies among the training images
    training_prior: dict[str, Annotated[float, Field(gt=0, lt=1)]]
    #: of VGG16's weights; none if no network has that backbone
    vgg16_sha256: Sha256 | None
    versions: dict[str, str]
    models: dict[str, Model]

    @model_validator(mode="after")
    def _has_the_same_classes_everywhere(self):
        biases = [model.calibration.bias for model in self.models.values()]
        lists = [list(names) for names in (self.training_prior, *biases)]
        if any(set(names) != set(self.classes) for names in lists):
            raise ValueError(f"classes = {list(self.classes)}; elsewhere they are {lists}")
        if abs(sum(self.training_prior.values()) - 1) > 1e-6:
            raise ValueError("training_prior does not add up to 1")
        return self


class Note(NamedTuple):
    """What is needed beside a network to use it."""

    #: the file that it comes from, for a reader
    source: str
    run: str
    title: str
    settings: Network | Transfer
    #: the full name of each class, in the order of the network's outputs
    classes: dict[str, str]
    preprocessing: Preprocessing
    #: class frequencies among the training images, ndarray of float, shape (classes,)
    training_prior: np.ndarray
    #: turns the network's outputs into posteriors under the training prior
    calibration: Calibration
    test_time_views: int
    weights_sha256: str
    #: when the network refuses an image, and where its training images lie
    refusal: Refusal | None
    space: probes.Space | None


def load(run: str | Path, model: str) -> tuple[keras.Model, Note]:
    """Load a published network, in float32, and what is needed to use it.

    Parameters
    ----------
    run : str or Path
        The name of models/<run>, or the absolute path of another folder with such files.
    model : str
        Such as `vgg16_fine_tuned`; the manifest lists them.

    Raises
    ------
    FileNotFoundError
        The run is not published, or the network's file is missing.
    OSError
        The weights of the backbone are not available (`vgg16_weights.load_backbone_weights`).
    ValueError
        The manifest is invalid or has no such network; the file is not the one that it names, or
        does not fit the network; or the weights are not those of the network that was trained.
    """
    folder = MODELS / run
    manifest = read_manifest(folder / MANIFEST)
    if model not in manifest.models:
        raise ValueError(
            f"{paths.relative(folder / MANIFEST)} has no network {model!r}; it has: "
            f"{', '.join(manifest.models)}"
        )
    entry, classes = manifest.models[model], list(manifest.classes)
    file = folder / entry.file
    trained_values = _read_values(file, entry)
    parts = [trained_values.pop(name, None) for name in SPACE]
    space = None if entry.refusal is None else probes.Space(*(part.astype(float) for part in parts))
    size = manifest.preprocessing.image_size
    network = build_exact(entry.settings, size, len(classes))
    _set_values(network, trained_values, backbone_values(network, entry.settings), file)
    digest = model_graph.weights_digest(network)
    if digest != entry.weights_sha256:
        raise ValueError(
            f"{paths.relative(file)}: the network's weights have the SHA-256 {digest}; after "
            f"training it was {entry.weights_sha256}"
        )
    return network, Note(
        source=paths.relative(file),
        run=manifest.run,
        title=entry.title,
        settings=entry.settings,
        classes=manifest.classes,
        preprocessing=manifest.preprocessing,
        training_prior=np.array([manifest.training_prior[name] for name in classes]),
        calibration=entry.calibration.of_classes(classes),
        test_time_views=entry.test_time_views,
        weights_sha256=digest,
        refusal=entry.refusal,
        space=space,
    )


def read_manifest(file: Path) -> Manifest:
    """Read and check the manifest of a published run."""
    if not file.is_file():
        published = sorted(other.parent.name for other in MODELS.glob(f"[!.]*/{MANIFEST}"))
        raise FileNotFoundError(
            f"{paths.relative(file)}: no such file; `make publish-models` writes it; published "
            f"are: {', '.join(published) or 'none'}"
        )
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ValueError(f"{paths.relative(file)}: not a manifest of networks: {faults}") from None


def build_exact(settings: Network | Transfer, image_size: int, n_classes: int) -> keras.Model:
    """Build a network in float32 and without augmentation, to predict with."""
    return devices.build(partial(building.build, settings, image_size, n_classes), Training())


def backbone_values(network: keras.Model, settings: Network | Transfer) -> dict[str, np.ndarray]:
    """Return the ImageNet weights that a newly built network has from its backbone."""
    if getattr(settings, "weights", "none") == "none":
        return {}
    head = tuple(f"{name}/" for name in vgg16_weights.HEAD)
    values = values_by_name(network)
    return {name: array for name, array in values.items() if not name.startswith(head)}


def values_by_name(network: keras.Model) -> dict[str, np.ndarray]:
    """Return a network's weights as arrays, by `<layer>/<weight>`."""
    return {name: model_graph.to_numpy(weight) for name, weight in _weights(network).items()}


def _weights(network: keras.Model) -> dict[str, keras.Variable]:
    weights = [(layer.name, weight) for layer in network.layers for weight in layer.weights]
    named = {f"{layer}/{weight.name}": weight for layer, weight in weights}
    if len(named) < len(weights):
        raise ValueError(f"{network.name} has two weights of one name; expected different names")
    return named


def _read_values(file: Path, entry: Model) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise FileNotFoundError(f"{paths.relative(file)}: no such file; its manifest names it")
    digest = array_files.file_digest(file)
    if digest != entry.sha256:
        name = paths.relative(file)
        raise ValueError(f"{name}: SHA-256 is {digest}; its manifest says {entry.sha256}")
    return array_files.read_arrays(file)[0]


def _set_values(network: keras.Model, values: dict, backbone: dict, file: Path) -> None:
    """Set weights; every one that the backbone did not bring must be in the file."""
    weights = _weights(network)
    missing = [name for name in weights if name not in values and name not in backbone]
    unknown = [name for name in values if name not in weights]
    if missing or unknown:
        raise ValueError(
            f"{paths.relative(file)} lacks {', '.join(missing) or 'nothing'}, and holds "
            f"{', '.join(unknown) or 'nothing'} that {network.name} does not have"
        )
    for name, array in values.items():
        expected = tuple(weights[name].shape)
        if array.shape != expected or array.dtype not in (np.float16, np.float32):
            raise ValueError(
                f"{paths.relative(file)}: {name} is {array.dtype} of shape {array.shape}; "
                f"expected float16 or float32 of shape {expected}"
            )
        weights[name].assign(array.astype(np.float32))
