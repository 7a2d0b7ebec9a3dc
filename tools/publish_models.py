"""Publish trained networks: `python -m tools.publish_models CONFIG` writes models/<run>."""

import sys
from pathlib import Path

import jinja2
import numpy as np

from lib import paths, tables
from lib.config import Config
from lib.evaluation import metrics, model_names
from lib.networks import array_files, inference, published_networks, vgg16_weights
from lib.networks.backend import keras, versions
from tools import finished_run, whole_files
from tools.command_line import run_on_config

TEMPLATE = paths.ROOT / "models" / "README.md.j2"

LARGEST = 40  # megabytes, all files of a run together

#: Largest difference of a probability between the trained network and the loaded one.
TOLERANCE = 1e-5


def publish(config: Config) -> Path:
    """Write a finished run's networks, a manifest and a README to models/<run>.

    The folder is replaced completely or not at all, and only after every network has been loaded
    from it with the weights and the predictions of the trained one.

    Raises
    ------
    FileNotFoundError
        The run is not complete.
    ValueError
        Its files do not belong together, or they would be larger than `LARGEST` megabytes.
    """
    target = published_networks.MODELS / config.name
    with whole_files.whole_folder(target) as partial:
        trained = {name: finished_run.read_run(config, name) for name in published_networks.SOURCES}
        described = {
            name: _write_model(partial / f"{name}.npz", name, network, note)
            for name, (network, note) in trained.items()
        }
        _check_size(config.name, described)
        manifest = _manifest(config, trained["baseline_cnn"][1], described)
        tables.write_json(manifest.model_dump(mode="json"), partial / published_networks.MANIFEST)
        paths.write_text(partial / "README.md", render_readme(manifest))
        for name, (network, note) in trained.items():
            _check_predictions(network, published_networks.load(partial, name)[0], note.source)
    return target


def _write_model(
    file: Path, model: str, network: keras.Model, note: published_networks.Note
) -> published_networks.Model:
    """Write the weights that training changed, and describe the file."""
    before = published_networks.backbone_values(published_networks.build(note.config, model), model)
    changed = {
        name: _smallest(values)
        for name, values in published_networks.values_by_name(network).items()
        if name not in before or not _same_bits(values, before[name])
    }
    array_files.write_arrays(file, changed, {"run": note.config.name, "model": model})
    return published_networks.Model(
        file=file.name,
        sha256=array_files.file_digest(file),
        bytes=file.stat().st_size,
        weights_sha256=note.weights_sha256,
        values=sum(values.size for values in changed.values()),
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


def _check_size(run: str, described: dict[str, published_networks.Model]) -> None:
    total = sum(model.bytes for model in described.values())
    if total > LARGEST * 10**6:
        sizes = ", ".join(f"{model.file} {model.bytes:,}" for model in described.values())
        raise ValueError(
            f"models/{run}: the networks take {total:,} bytes together, more than {LARGEST} MB "
            f"({sizes}); use fewer filters or units, or fine-tune from a later layer"
        )


def _manifest(
    config: Config, note: published_networks.Note, described: dict[str, published_networks.Model]
) -> published_networks.Manifest:
    return published_networks.Manifest(
        run=config.name,
        configuration=Config.model_validate(metrics.configuration(config)),
        classes=config.classes,
        training_prior=dict(zip(config.classes, note.training_prior.tolist(), strict=True)),
        vgg16_sha256=vgg16_weights.VGG16_DIGEST
        if config.vgg16_transfer.backbone == "VGG16"
        else None,
        versions=versions(),
        models=described,
    )


def render_readme(manifest: published_networks.Manifest) -> str:
    """Return the README of a folder of published networks."""
    config = manifest.configuration
    *others, last = [config.names[name] for name in config.classes]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        run=manifest.run,
        title=config.title,
        classes=config.classes,
        diagnoses=f"{', '.join(others)} and {last}",
        models=manifest.models,
        titles=model_names.titles(config),
        backbone=config.vgg16_transfer.backbone,
        synthetic=config.data.synthetic is not None,
        ham10000="HAM10000" in config.data.attribution,
        attribution=config.data.attribution,
        largest=LARGEST,
    )


def _check_predictions(trained: keras.Model, loaded: keras.Model, source: str) -> None:
    """Check that a loaded network predicts like the trained one; equal weights are not enough."""
    noise = np.random.default_rng(0).integers(0, 256, (2, *trained.input_shape[1:]), np.uint8)
    difference = np.abs(inference.forward(trained, noise) - inference.forward(loaded, noise)).max()
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{source}: the network loaded from its published file gives other predictions "
            f"(largest difference {difference}, expected at most {TOLERANCE}). Was it trained "
            "with another configuration?"
        )


def main(arguments: list[str] | None = None) -> int:
    """Publish a run's networks."""
    return run_on_config(__doc__, publish, arguments)


if __name__ == "__main__":
    sys.exit(main())
