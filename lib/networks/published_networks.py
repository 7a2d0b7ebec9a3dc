"""Load published networks, models/<run>, and those of a finished run.

What lies there is numbers and text. A network is built by the code of this repository from the
configuration in the manifest, gets the backbone's verified weights and then those that training
changed, and is handed out only if all its weights have the SHA-256 that they had after training.
"""

from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib import paths
from lib.config import ClassBalance, Config
from lib.data import datasets
from lib.evaluation import priors
from lib.evaluation.calibration import Calibration
from lib.networks import (
    array_files,
    baseline_cnn,
    devices,
    model_graph,
    saving,
    vgg16,
    vgg16_weights,
)
from lib.networks.backend import keras

MODELS = paths.ROOT / "models"

MANIFEST = "manifest.json"

#: The networks that are published: the folder under runs/<run>, and the name under which
#: `training.save` wrote each.
SOURCES = {
    "baseline_cnn": ("baseline_cnn", "model"),
    "vgg16_frozen": ("vgg16_transfer", "frozen"),
    "vgg16_fine_tuned": ("vgg16_transfer", "model"),
}


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


Shares = dict[str, Annotated[float, Field(gt=0, lt=1)]]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(_Part):
    """What the manifest says of one network."""

    file: Annotated[str, Field(pattern=r"^\w+\.npz$")]
    sha256: Sha256
    bytes: int
    #: of the whole network, those of the backbone included
    weights_sha256: Sha256
    #: how many values the file holds
    values: int
    class_balance: ClassBalance
    calibration: Calibration
    test_time_views: Annotated[int, Field(ge=1)]


class Manifest(_Part):
    """`manifest.json` of a published run."""

    run: str
    configuration: Config
    classes: list[str]
    #: the classes' shares among the training images
    training_prior: Shares
    #: of VGG16's weights; none where the backbone is another
    vgg16_sha256: Sha256 | None
    versions: dict[str, str]
    models: dict[str, Model]

    @model_validator(mode="after")
    def _speaks_of_the_same_classes(self):
        biases = [each.calibration.bias for each in self.models.values()]
        found = [self.configuration.classes, *map(list, (self.training_prior, *biases))]
        if found[0] != self.classes or any(set(each) != set(self.classes) for each in found):
            raise ValueError(f"classes = {self.classes}; elsewhere they are {found}")
        if abs(sum(self.training_prior.values()) - 1) > 1e-6:
            raise ValueError("shares of classes that do not add up to 1")
        return self


class Note(NamedTuple):
    """What is needed beside a network to use it."""

    #: the file that it comes from, for a reader
    source: str
    config: Config
    #: the classes' shares among the training images, ndarray of float, shape (classes,)
    training_prior: np.ndarray
    #: makes posteriors under these shares of the network's outputs
    calibration: Calibration
    class_balance: str
    test_time_views: int
    weights_sha256: str


def run_file(config: Config, model: str) -> Path:
    """Return where a run of one's own has a network, whether it is there or not."""
    folder, name = SOURCES[model]
    return paths.run_folder(config.name) / folder / f"{name}.keras"


def read_run(config: Config, model: str) -> tuple[keras.Model, Note]:
    """Read a network from one's own run, runs/<run>.

    Raises
    ------
    FileNotFoundError
        The run has none, or lacks what belongs to it.
    ValueError
        It was trained, or its images were prepared, with other settings; or its weights are not
        those that its training ended with.
    """
    network, file = saving.read_model(config, *SOURCES[model]), run_file(config, model)
    index = datasets.read_index(config)
    prepared = {"preprocessing": config.preprocessing.model_dump()}
    paths.check_note(paths.run_folder(config.name) / "images.npy", prepared, "notebook 02")
    settings = _settings(config, model)
    said = saving.read_manifest(file)
    if model == "baseline_cnn":  # asked once for each image; its manifest does not speak of views
        said.setdefault("test_time_views", 1)
    for key, value in settings.items():
        if said.get(key) != value:
            raise ValueError(
                f"{paths.relative(file)}: its manifest says {key} = {said.get(key)}; expected "
                f"{value}; run the notebook that trains it again"
            )
    return network, Note(
        source=paths.relative(file),
        config=config,
        training_prior=priors.training_prior(index, config.classes),
        calibration=_calibration(said, config.classes, file),
        weights_sha256=said["weights_sha256"],
        **settings,
    )


def _settings(config: Config, model: str) -> dict:
    """Return how a network was trained and is asked, of what its outputs' meaning depends on."""
    if model == "baseline_cnn":
        return {"class_balance": config.baseline_cnn.class_balance, "test_time_views": 1}
    of = config.vgg16_transfer
    return {"class_balance": of.class_balance, "test_time_views": of.test_time_views}


def _calibration(said: dict, classes: list[str], file: Path) -> Calibration:
    try:
        return Calibration.model_validate(said.get("calibration")).of_classes(classes)
    except ValueError as error:  # pydantic's too
        fault = " ".join(str(error).split())
        raise ValueError(
            f"{paths.relative(file)}: its manifest lacks a calibration that can be used ({fault}); "
            "run the notebook that trains it again"
        ) from None


def load(run: str, model: str) -> tuple[keras.Model, Note]:
    """Load a published network, in float32, and what is needed to use it.

    Parameters
    ----------
    run : str
        Names models/<run>.
    model : str
        One of `SOURCES`.

    Raises
    ------
    FileNotFoundError
        The run is not published, or its file is not there.
    OSError
        The backbone's weights could not be had (`weights.load_backbone_weights`).
    ValueError
        The manifest is not as it should be or has no such network; the file is not the one that it
        names, or does not fit the network; or the weights are not those of the network that was
        trained.
    """
    return load_from(MODELS / run, model)


def load_from(folder: Path, model: str) -> tuple[keras.Model, Note]:
    """Load a network from a folder that `publish` wrote; see `load`."""
    manifest = read_manifest(folder / MANIFEST)
    if model not in manifest.models:
        raise ValueError(
            f"{paths.relative(folder / MANIFEST)} has no network {model!r}; it has: "
            f"{', '.join(manifest.models)}"
        )
    said = manifest.models[model]
    file, config = folder / said.file, manifest.configuration
    stored = _read_stored(file, said)
    network = build(config, model)
    _set_stored(network, stored, backbone_values(network, model), file)
    found = model_graph.weights_digest(network)
    if found != said.weights_sha256:
        raise ValueError(
            f"{paths.relative(file)}: the network's weights have the SHA-256 {found}; after "
            f"training it was {said.weights_sha256}"
        )
    return network, Note(
        source=paths.relative(file),
        config=config,
        training_prior=np.array([manifest.training_prior[name] for name in config.classes]),
        calibration=said.calibration.of_classes(config.classes),
        class_balance=said.class_balance,
        test_time_views=said.test_time_views,
        weights_sha256=found,
    )


def read_manifest(file: Path) -> Manifest:
    """Read and check the manifest of a published run."""
    if not file.is_file():
        there = sorted(each.parent.name for each in MODELS.glob(f"[!.]*/{MANIFEST}"))
        raise FileNotFoundError(
            f"{paths.relative(file)}: no such file; `make publish-models` writes it; published "
            f"are: {', '.join(there) or 'none'}"
        )
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg']}"
            for each in error.errors()
        )
        raise ValueError(f"{paths.relative(file)}: not a manifest of networks: {faults}") from None


def build(config: Config, model: str) -> keras.Model:
    """Build a network, in float32, with the backbone's verified weights where it has one."""
    size, n_classes = config.preprocessing.image_size, len(config.classes)
    with devices.policy("float32"):
        if model == "baseline_cnn":
            return baseline_cnn.baseline_cnn(
                size, n_classes, config.baseline_cnn, config.augmentation, config.seed
            )
        network = vgg16.vgg16_transfer(
            size, n_classes, config.vgg16_transfer, config.augmentation, config.seed
        )
    vgg16_weights.load_backbone_weights(network, config.vgg16_transfer)
    return network


def _read_stored(file: Path, said: Model) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise FileNotFoundError(f"{paths.relative(file)}: no such file; its manifest names it")
    found = array_files.file_digest(file)
    if found != said.sha256:
        raise ValueError(
            f"{paths.relative(file)}: SHA-256 is {found}; its manifest says {said.sha256}"
        )
    return array_files.read_arrays(file)[0]


def _set_stored(
    network: keras.Model, stored: dict[str, np.ndarray], given: dict, file: Path
) -> None:
    """Set what was stored; every weight that the backbone did not bring must be there."""
    variables = _variables(network)
    missing = [name for name in variables if name not in stored and name not in given]
    unknown = [name for name in stored if name not in variables]
    if missing or unknown:
        raise ValueError(
            f"{paths.relative(file)} lacks {', '.join(missing) or 'nothing'}, and holds "
            f"{', '.join(unknown) or 'nothing'} that {network.name} does not have"
        )
    for name, values in stored.items():
        expected = tuple(variables[name].shape)
        if values.shape != expected or values.dtype not in (np.float16, np.float32):
            raise ValueError(
                f"{paths.relative(file)}: {name} is {values.dtype} of shape {values.shape}; "
                f"expected float16 or float32 of shape {expected}"
            )
        variables[name].assign(values.astype(np.float32))


def backbone_values(network: keras.Model, model: str) -> dict[str, np.ndarray]:
    """Return the weights that a newly built network has from its backbone."""
    if model == "baseline_cnn":
        return {}
    head = tuple(f"{name}/" for name in vgg16_weights.HEAD)
    return {n: values for n, values in values_by_name(network).items() if not n.startswith(head)}


def values_by_name(network: keras.Model) -> dict[str, np.ndarray]:
    """Return a network's weights as arrays, by `<layer>/<weight>`."""
    return {name: model_graph.to_numpy(each) for name, each in _variables(network).items()}


def _variables(network: keras.Model) -> dict[str, keras.Variable]:
    """Return a network's weights as `<layer>/<weight>`."""
    named = {f"{part.name}/{each.name}": each for part in network.layers for each in part.weights}
    if len(named) < len(network.weights):
        raise ValueError(f"{network.name} has two weights of one name; expected names that differ")
    return named
