"""Check a run before it starts: networks, weights, images, groups, disk, memory; estimate its time.

Nothing is trained; VGG16's weights are fetched into the cache. Each check yields lines to print and
faults, and all of them run, so that every fault is listed at once.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib import models, paths, tables
from lib.config import Config, Transfer, load_config
from lib.data import datasets, duplicates, quality, splits
from lib.heatmaps import gradcam
from lib.networks import building, model_graph
from lib.networks.backend import gpus, keras
from tools import fetch_weights, run_costs, synthetic
from tools.command_line import run_command


class Fault(str):
    """A text that says what is wrong with a run, unlike other texts, which are information."""


@dataclass
class Findings:
    """What the checks of a run found out, for the checks that follow."""

    config: Config
    #: by name; those that could be built
    networks: dict[str, keras.Model] = field(default_factory=dict)
    #: of the images that have a file, and their files; None if there are no images
    metadata: pd.DataFrame | None = None
    files: pd.Series | None = None
    #: as notebook 01 will write it, if every class has enough groups
    index: pd.DataFrame | None = None
    #: the number of images in the metadata
    listed: int = 0


def check_networks(findings: Findings) -> Iterator[str]:
    """Build every network with its weights, and cut it in two as notebook 04 does."""
    config = findings.config
    for settings in [*config.networks, *config.transfers]:
        where = f"models.{settings.name}"
        try:
            try:
                if getattr(settings, "weights", "none") == "imagenet":
                    _fetch_weights(settings)
                network = building.build_for_training(config, settings)
            except OSError as error:
                yield Fault(f"{where}.weights = imagenet: {error}")
                settings = settings.model_copy(update={"weights": "none"})
                network = building.build_for_training(config, settings)
            if isinstance(settings, Transfer):
                model_graph.split_before(network, settings.fine_tune.from_layer)
        except ValueError as error:
            yield _fault(where, error)
            continue
        except Exception as error:  # whatever a builder of the user's own raises
            yield Fault(f"{where}: {type(error).__name__}: {error}")
            continue
        findings.networks[settings.name] = network
        weights = getattr(settings, "weights", "none")
        text = f"network {settings.name}: {network.count_params():,} parameters"
        yield text if weights == "none" else f"{text}, {weights} weights"


def _fetch_weights(settings: Transfer) -> None:
    if settings.backbone == "VGG16":  # Keras fetches those of other backbones when it builds them
        fetch_weights.fetch()


def check_heatmaps(findings: Findings) -> Iterator[str]:
    """Compute one heatmap with each of the layers to explain."""
    config = findings.config
    size = config.preprocessing.image_size
    for name, layer in config.heatmaps.layers.items():
        network = findings.networks.get(models.models_of(config)[name].settings.name)
        if network is None:
            continue  # a fault already
        where, known = f"heatmaps.layers.{name}", [part.name for part in network.layers]
        if layer not in known:
            yield Fault(
                f"{where}: {model_graph.unknown_name('the network', 'layer', layer, known)}"
            )
            continue
        if keras.backend.backend() != "tensorflow":
            yield f"{where}: not computed, since notebook 06 needs TensorFlow"
            continue
        try:
            gradcam.grad_cam(network, np.zeros((1, size, size, 3), np.uint8), layer)
        except ValueError as error:
            yield _fault(where, error)


def check_images(findings: Findings) -> Iterator[str]:
    """Read the metadata and find the file of each image; none is opened."""
    config = findings.config
    folder, drawn = paths.resolve(config.data.folder), config.data.synthetic
    if drawn and not (folder / datasets.METADATA).is_file():
        plan = synthetic.image_plan(drawn.lesions, drawn.seed)
        findings.metadata = plan.reindex(columns=[*plan.columns, "patient_id"])
        ids = findings.metadata["image_id"]
        findings.files, findings.listed = pd.Series(ids.to_numpy(), index=ids), len(ids)
        yield f"images: {len(ids):,} synthetic ones, not drawn yet"
        return
    try:
        datasets.open_folder(config)
        listed = datasets.read_metadata(folder, config.names)
        files = datasets.find_images(folder, listed["image_id"])
        masks = datasets.find_masks(folder, listed["image_id"])
        has_file = listed["image_id"].isin(files.index)
        findings.metadata, findings.files = listed[has_file], files
        findings.listed = len(listed)
        inspected = listed[["image_id", "dx"]].assign(path="", found="no file")
        inspected["problem"] = np.where(has_file, "", "missing")
        quality.usable(listed, inspected, config)
    except (OSError, ValueError) as error:
        yield Fault(str(error))
        return
    yield (
        f"images: {len(listed):,} listed in {config.data.folder}, {(~has_file).sum()} without a "
        f"file, {len(masks):,} lesion masks"
    )


def check_groups(findings: Findings) -> Iterator[str]:
    """Split the images as notebook 01 does, with duplicates joined if it has found them before."""
    if findings.metadata is None:
        return
    config, metadata = findings.config, findings.metadata
    known, by = pd.DataFrame(columns=["lesion_id_1", "lesion_id_2"]), config.split.group_by
    kind = "lesions" if by == "lesion_id" or metadata[by].isna().all() else "groups of lesions"
    cached = _run_folder(config) / "duplicates.csv"
    if config.split.duplicates and cached.is_file():
        try:
            pairs = tables.read_table(cached, duplicates.PAIRS_SCHEMA)
        except ValueError as error:
            yield f"{error}; notebook 01 writes it again"
        else:
            is_known = pairs[known.columns].isin(set(metadata["lesion_id"])).all(axis=1)
            known, kind = pairs[is_known], "groups of lesions"
    groups = duplicates.join(metadata, known, by)
    try:
        index = datasets.build_index(metadata, findings.files, groups, config)
    except ValueError as error:
        yield _fault(config.data.folder, error)
        return
    findings.index = index
    counts = splits.group_labels(index).value_counts()
    numbers = ", ".join(f"{name} {counts.get(name, 0):,}" for name in config.classes)
    yield f"images of this run: {len(index):,}; {kind}: {numbers}"


def check_disk(findings: Findings) -> Iterator[str]:
    """Compare the size of a run's files with the space on the disk."""
    if findings.index is None:
        return
    config = findings.config
    needed = run_costs.disk_bytes(config, findings.networks, _counts(findings))
    folder = _run_folder(config)
    others = [folder / name for name in ("folds", "seeds", "external")]  # trainings of their own
    files = [file for file in folder.rglob("*") if file.is_file()]
    written = sum(f.stat().st_size for f in files if not any(o in f.parents for o in others))
    disk = next(place for place in [folder, *folder.parents] if place.exists())
    free = shutil.disk_usage(disk).free
    text = (
        f"about {_bytes(needed)} in runs/{config.name}, {_bytes(written)} of it written; "
        f"{_bytes(free)} are free"
    )
    yield Fault(f"disk: expected {text}") if needed - written > free else f"disk: {text}"


def check_memory(findings: Findings) -> Iterator[str]:
    """Compare the memory of the largest training step with that of the machine."""
    if gpus():
        yield "memory: not estimated, since there is a GPU"
        return
    needed = run_costs.memory_bytes(findings.config, findings.networks)
    text = f"about {_bytes(needed)} for training"
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        yield f"memory: {text}; this system does not say how much there is"
        return
    text = f"{text}; this machine has {_bytes(memory)}"
    yield Fault(f"memory: expected {text}") if needed > memory else f"memory: {text}"


#: In this order; each takes the findings of those before.
CHECKS = (check_networks, check_heatmaps, check_images, check_groups, check_disk, check_memory)


def check(config: Config) -> list[str]:
    """Run all checks on a configuration, print what they find, and return the faults."""
    findings, faults = Findings(config), []
    for function in CHECKS:
        for text in function(findings):
            if isinstance(text, Fault):
                faults.append(text)
            else:
                print(text, flush=True)
    if not faults:
        print(estimate_time(findings), flush=True)
    return faults


def estimate_time(findings: Findings) -> str:
    """Say how long the run may take from nothing, and which part how long."""
    config = findings.config
    if config.training.devices == "all":
        return "time: not estimated with training.devices = all"
    counts = _counts(findings)
    times = run_costs.seconds(config, findings.networks, counts, findings.listed)
    parts = ", ".join(f"{name} {_duration(value)}" for name, value in times.items())
    total = _duration(sum(times.values()))
    return f"time: about {total} from nothing, roughly, from steps on noise ({parts})"


# ----------------------------------------------------------------------------------------- details


def _fault(where: str, error: Exception) -> Fault:
    """Return an error as a fault that begins with the key or the folder that it is about."""
    text = str(error)
    return Fault(text if text.startswith(where) else f"{where}: {text}")


def _counts(findings: Findings) -> dict[str, int]:
    """Return the number of images in each split."""
    return findings.index["split"].value_counts().to_dict()


def _run_folder(config: Config) -> Path:
    """Return `runs/<run>`, without creating it."""
    return paths.output_root() / "runs" / config.name


def _bytes(number: float) -> str:
    return tqdm.format_sizeof(number, "B")


def _duration(seconds: float) -> str:
    """Return a duration, rounded as an estimate deserves.

    >>> _duration(290), _duration(10_000)
    ('5 minutes', '2.8 hours')
    """
    if seconds < 5400:
        minutes = max(1, round(seconds / 60))
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    return f"{seconds / 3600:.1f} hours"


def main(arguments: list[str] | None = None) -> int:
    """Check one configuration and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.check", description=main.__doc__)
    parser.add_argument("config", help="the run, such as configs/demo.yaml")
    options = parser.parse_args(arguments)

    def check_file() -> None:
        faults = check(load_config(options.config))
        if faults:
            lines = [fault.replace("\n", "\n    ") for fault in faults]
            raise ValueError(f"{options.config}: {len(faults)} to fix\n  " + "\n  ".join(lines))

    return run_command(check_file)


if __name__ == "__main__":
    sys.exit(main())
