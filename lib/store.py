"""Publish trained networks and load them: `python -m lib.store CONFIG` writes models/<run>.

What lies there is numbers and text. A network is built by the code of this repository from the
configuration in the manifest, gets the backbone's verified weights and then those that training
changed, and is handed out only if all its weights have the SHA-256 that they had after training.
"""

import argparse
import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import jinja2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib import arrays, datasets, metrics, models, paths, precision, training, weights
from lib.backend import keras, versions
from lib.calibration import Calibration
from lib.config import ClassBalance, Config, load_config

MODELS = paths.ROOT / "models"
TEMPLATE = paths.ROOT / "models" / "README.md.j2"
MANIFEST = "manifest.json"
#: The networks that are published: the folder under runs/<run>, and the name under which
#: `training.save` wrote each.
SOURCES = {
    "baseline_cnn": ("baseline_cnn", "model"),
    "vgg16_frozen": ("vgg16_transfer", "frozen"),
    "vgg16_fine_tuned": ("vgg16_transfer", "model"),
}
LARGEST = 40  # megabytes, of all files of a run together
#: By how much a probability may differ between a network as it was saved and as it is loaded.
TOLERANCE = 1e-5

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


# ------------------------------------------------------------------------------------ publishing


def publish(config: Config) -> Path:
    """Write a finished run's networks, a manifest and a README to models/<run>.

    The folder is replaced whole or not at all, and only when every network was loaded from it
    again, with the weights and the answers of the one that was trained.

    Raises
    ------
    FileNotFoundError
        The run is not complete.
    ValueError
        Its files do not belong together, or they would be larger than `LARGEST` megabytes.
    """
    target = MODELS / config.name
    with paths.whole_folder(target) as partial:
        trained = {name: read_run(config, name) for name in SOURCES}
        described = {
            name: _write_model(partial / f"{name}.npz", name, network, note)
            for name, (network, note) in trained.items()
        }
        _check_size(config.name, described)
        manifest = _manifest(config, trained["baseline_cnn"][1], described)
        metrics.write_json(manifest.model_dump(mode="json"), partial / MANIFEST)
        paths.write_text(partial / "README.md", _readme(manifest))
        for name, (network, note) in trained.items():
            _check_answers(network, load_from(partial, name)[0], note.source)
    return target


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
    network, file = training.read_model(config, *SOURCES[model]), run_file(config, model)
    index = datasets.read_index(config)
    prepared = {"preprocessing": config.preprocessing.model_dump()}
    paths.check_note(paths.run_folder(config.name) / "images.npy", prepared, "notebook 02")
    settings = _settings(config, model)
    said = training.read_manifest(file)
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
        training_prior=metrics.training_prior(index, config.classes),
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


def _write_model(file: Path, model: str, network: keras.Model, note: Note) -> Model:
    """Write what training changed in a network, and describe the file."""
    given = _given(build(note.config, model), model)
    kept = {
        name: _smallest(values)
        for name, values in _values(network).items()
        if name not in given or not _same_bits(values, given[name])
    }
    arrays.write_arrays(file, kept, {"run": note.config.name, "model": model})
    return Model(
        file=file.name,
        sha256=arrays.file_digest(file),
        bytes=file.stat().st_size,
        weights_sha256=note.weights_sha256,
        values=sum(values.size for values in kept.values()),
        class_balance=note.class_balance,
        calibration=note.calibration,
        test_time_views=note.test_time_views,
    )


def _smallest(values: np.ndarray) -> np.ndarray:
    """Return values in half precision if that loses nothing, else as they are."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if _same_bits(half.astype(values.dtype), values) else values


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    same_kind = one.dtype == other.dtype and one.shape == other.shape
    return same_kind and one.tobytes() == other.tobytes()


def _shares(prior: np.ndarray, classes: list[str]) -> dict[str, float]:
    return dict(zip(classes, prior.tolist(), strict=True))


def _check_size(run: str, described: dict[str, Model]) -> None:
    total = sum(each.bytes for each in described.values())
    if total > LARGEST * 10**6:
        sizes = ", ".join(f"{each.file} {each.bytes:,}" for each in described.values())
        raise ValueError(
            f"models/{run}: the networks take {total:,} bytes together, more than {LARGEST} MB "
            f"({sizes}); fewer filters or units, or fine-tuning from a later layer, makes them "
            "smaller"
        )


def _manifest(config: Config, note: Note, described: dict[str, Model]) -> Manifest:
    return Manifest(
        run=config.name,
        configuration=Config.model_validate(metrics.configuration(config)),
        classes=config.classes,
        training_prior=_shares(note.training_prior, config.classes),
        vgg16_sha256=weights.VGG16_DIGEST if config.vgg16_transfer.backbone == "VGG16" else None,
        versions=versions(),
        models=described,
    )


def _readme(manifest: Manifest) -> str:
    config = manifest.configuration
    *others, last = [config.names[name] for name in config.classes]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        run=manifest.run,
        title=config.title,
        classes=config.classes,
        diagnoses=f"{', '.join(others)} and {last}",
        models=manifest.models,
        titles=metrics.titles(config),
        backbone=config.vgg16_transfer.backbone,
        synthetic=config.data.synthetic is not None,
        ham10000="HAM10000" in config.data.attribution,
        attribution=config.data.attribution,
        largest=LARGEST,
    )


def _check_answers(trained: keras.Model, loaded: keras.Model, source: str) -> None:
    """Check that a network answers as the one that was trained; the same weights are not enough."""
    noise = np.random.default_rng(0).integers(0, 256, (2, *trained.input_shape[1:]), np.uint8)
    found = np.abs(training.forward(trained, noise) - training.forward(loaded, noise)).max()
    if not found <= TOLERANCE:
        raise ValueError(
            f"{source}: loaded from its published file, the network answers otherwise, by {found}; "
            "expected the same. Was it trained with another configuration?"
        )


# --------------------------------------------------------------------------------------- loading


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
    _set_stored(network, stored, _given(network, model), file)
    found = weights.weights_digest(network)
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
    with precision.policy("float32"):
        if model == "baseline_cnn":
            return models.baseline_cnn(
                size, n_classes, config.baseline_cnn, config.augmentation, config.seed
            )
        network = models.vgg16_transfer(
            size, n_classes, config.vgg16_transfer, config.augmentation, config.seed
        )
    weights.load_backbone_weights(network, config.vgg16_transfer)
    return network


def _read_stored(file: Path, said: Model) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise FileNotFoundError(f"{paths.relative(file)}: no such file; its manifest names it")
    found = arrays.file_digest(file)
    if found != said.sha256:
        raise ValueError(
            f"{paths.relative(file)}: SHA-256 is {found}; its manifest says {said.sha256}"
        )
    return arrays.read_arrays(file)[0]


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


def _given(network: keras.Model, model: str) -> dict[str, np.ndarray]:
    """Return the weights that a newly built network has from its backbone."""
    if model == "baseline_cnn":
        return {}
    head = tuple(f"{name}/" for name in weights.HEAD)
    return {n: values for n, values in _values(network).items() if not n.startswith(head)}


def _values(network: keras.Model) -> dict[str, np.ndarray]:
    return {name: training.to_numpy(each) for name, each in _variables(network).items()}


def _variables(network: keras.Model) -> dict[str, keras.Variable]:
    """Return a network's weights as `<layer>/<weight>`."""
    named = {f"{part.name}/{each.name}": each for part in network.layers for each in part.weights}
    if len(named) < len(network.weights):
        raise ValueError(f"{network.name} has two weights of one name; expected names that differ")
    return named


def main(arguments: list[str] | None = None) -> int:
    """Publish a run's networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="the run, such as configs/demo.yaml")
    try:
        print(paths.relative(publish(load_config(parser.parse_args(arguments).config))))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
