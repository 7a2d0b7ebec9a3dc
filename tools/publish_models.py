"""Publish trained networks: `python -m tools.publish_models CONFIG` writes models/<run>."""

import sys
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np

from lib import paths, tables
from lib.config import Config
from lib.models import models_of
from lib.networks import array_files, inference, vgg16_weights
from lib.networks.backend import keras, versions
from tools import finished_run, published_networks, whole_files
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
    if not (names := published_names(config)):
        raise ValueError(f"run {config.name}: every network has publish: false; nothing to publish")
    target = published_networks.MODELS / config.name
    with whole_files.whole_folder(target) as partial:
        trained = {name: finished_run.read_run(config, name) for name in names}
        described = {
            name: _write_model(partial / f"{name}.npz", name, network, note)
            for name, (network, note) in trained.items()
        }
        _check_size(config.name, described)
        prior = next(iter(trained.values()))[1].training_prior
        manifest = _manifest(config, prior, described)
        tables.write_json(manifest.model_dump(mode="json"), partial / published_networks.MANIFEST)
        networks = {name: row for name, row in models_of(config).items() if row.network}
        left_out = [row.title for name, row in networks.items() if name not in described]
        paths.write_text(partial / "README.md", render_readme(manifest, left_out))
        for name, (network, note) in trained.items():
            _check_predictions(network, published_networks.load(partial, name)[0], note.source)
    return target


def published_names(config: Config) -> list[str]:
    """Return the names of the networks whose weights are published."""
    networks = [model for model in models_of(config).values() if model.network]
    return [model.name for model in networks if model.settings.publish]


def _write_model(
    file: Path, model: str, network: keras.Model, note: published_networks.Note
) -> published_networks.Model:
    """Write the weights that training changed, and describe the file."""
    size = note.preprocessing.image_size
    built = published_networks.build_exact(note.settings, size, len(note.classes))
    before = published_networks.backbone_values(built, note.settings)
    changed = {
        name: _smallest(values)
        for name, values in published_networks.values_by_name(network).items()
        if name not in before or not _same_bits(values, before[name])
    }
    space = {}
    if note.refusal is not None:
        fields = note.space.means, note.space.precision
        pairs = zip(published_networks.SPACE, fields, strict=True)
        space = {name: values.astype(np.float32) for name, values in pairs}
    array_files.write_arrays(file, changed | space, {"run": note.run, "model": model})
    return published_networks.Model(
        title=note.title,
        settings=note.settings,
        file=file.name,
        sha256=array_files.file_digest(file),
        bytes=file.stat().st_size,
        weights_sha256=note.weights_sha256,
        values=sum(values.size for values in changed.values()),
        calibration=note.calibration,
        test_time_views=note.test_time_views,
        refusal=note.refusal,
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
            f"({sizes}); use fewer filters or units, fine-tune from a later layer, "
            "or leave some out (publish: false)"
        )


def _manifest(
    config: Config, prior: np.ndarray, described: dict[str, published_networks.Model]
) -> published_networks.Manifest:
    return published_networks.Manifest(
        schema_version=published_networks.SCHEMA_VERSION,
        run=config.name,
        title=config.title,
        attribution=config.data.attribution,
        synthetic=config.data.synthetic is not None,
        classes={name: config.names[name] for name in config.classes},
        preprocessing=config.preprocessing,
        training_prior=dict(zip(config.classes, prior.tolist(), strict=True)),
        vgg16_sha256=vgg16_weights.VGG16_DIGEST if "VGG16" in _pretrained(described) else None,
        versions=versions(),
        models=described,
    )


def render_readme(manifest: published_networks.Manifest, left_out: Sequence[str] = ()) -> str:
    """Return the README of a folder of published networks.

    Parameters
    ----------
    left_out : sequence of str
        The titles of the run's networks that are not published.
    """
    *others, last = manifest.classes.values()
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        run=manifest.run,
        title=manifest.title,
        diagnoses=f"{', '.join(others)} and {last}",
        n_classes=len(manifest.classes),
        models=manifest.models,
        last_model=list(manifest.models)[-1],
        left_out=left_out,
        backbones=_pretrained(manifest.models),
        synthetic=manifest.synthetic,
        ham10000="HAM10000" in manifest.attribution,
        attribution=manifest.attribution,
    )


def _pretrained(described: dict[str, published_networks.Model]) -> list[str]:
    """Return the backbones whose ImageNet weights the networks start from."""
    items = [model.settings for model in described.values()]
    names = [item.backbone for item in items if getattr(item, "weights", None) == "imagenet"]
    return list(dict.fromkeys(names))


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
