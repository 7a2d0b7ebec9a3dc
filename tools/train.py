"""Train the networks of a run without notebooks: `python -m tools.train CONFIG [--model NAME]`.

With `--fold K` they are trained on the other folds, with `--seed S` with another seed, to say how
much scores vary. Then what they output for the images that they were not trained on is written to
`outputs.csv` in runs/<run>/folds/<K>/<model> or runs/<run>/seeds/<S>/<model>.

For a server without a desktop. It needs Keras with one of its backends (`KERAS_BACKEND`), and of
the project's other libraries only h5py, NumPy, platformdirs, pydantic, ruamel.yaml, SciPy and tqdm.
It opens no connection: pretrained weights must be in the cache (`SKIN_CACHE`). It reads
`index.csv` and `images.npy`, which notebooks 01 and 02 have written to runs/<run>, and leaves the
same training states there as notebooks 03 and 04, which find a finished training and use it.
"""

import argparse
import csv
import hashlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from lib import paths
from lib.config import Config, Network, Transfer, load_config
from lib.networks import (
    building,
    feature_cache,
    inference,
    model_graph,
    training,
    vgg16_weights,
)
from lib.networks.backend import keras
from tools.command_line import run_command


class TrainingRun:
    """What training reads of a run: the part of `lib.run.Run` that needs no pandas.

    With a fold, the images of all other folds are its training images; nothing is chosen on those
    of this fold, so the last epoch is kept (`train`).
    """

    def __init__(self, config: Config, fold: int | None = None, seed: int | None = None):
        self.home = self.folder = paths.run_folder(config.name)
        self.index = _read_index(self.home / "index.csv", config)
        self.images = _open_images(self.home / "images.npy", config, self.index)
        self._split = np.array([row["split"] for row in self.index])
        if fold is not None:
            folds = np.array([int(row["fold"]) for row in self.index])
            if fold not in folds:
                raise ValueError(f"--fold {fold}: expected one of 0 to {folds.max()}")
            self._split = np.where(folds == fold, "validation", "train")
            self.folder = self.home / "folds" / str(fold)
        if seed is not None:
            config = config.model_copy(update={"seed": seed})
            self.folder = self.home / "seeds" / str(seed)
        self.config, self.classes, self.fold = config, config.classes, fold
        self.targets = np.array([self.classes.index(row["label"]) for row in self.index])
        counts = np.bincount(self.targets[self.rows("train")], minlength=len(self.classes))
        if not counts.all():
            label = self.classes[int(counts.argmin())]
            raise ValueError(f"no training image of class {label}; expected some of each")
        self.class_prior = counts / counts.sum()
        self.held_out = SimpleNamespace(index=np.flatnonzero(self._split != "train"))

    def __len__(self):
        return len(self.index)

    def rows(self, split: str) -> np.ndarray:
        return np.flatnonzero(self._split == split)


def _read_index(file: Path, config: Config) -> list[dict[str, str]]:
    """Read `index.csv`, with the checks of `lib.data.datasets.read_index` that need no pandas."""
    paths.check_note(file, config.index_settings(), "notebook 01")
    with open(file, encoding="utf-8", newline="") as stream:
        index = list(csv.DictReader(stream))
    columns = "image_id lesion_id group_id split fold".split()  # as in lib.data.splits.digest
    lines = sorted(",".join(row[name] for name in columns) + "\n" for row in index)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    paths.check_note(file, {"split_sha256": digest}, "notebook 01")
    return index


def _open_images(file: Path, config: Config, index: list[dict[str, str]]) -> np.ndarray:
    """Open `images.npy` and check that it was made from this index with these settings."""
    ids = "\n".join(row["image_id"] for row in index)
    expected = {
        "preprocessing": config.preprocessing.model_dump(),
        "image_ids_sha256": hashlib.sha256(ids.encode()).hexdigest(),
    }
    paths.check_note(file, expected, "notebook 02")
    return np.load(file, mmap_mode="r")


def train(run: TrainingRun, item: Network | Transfer) -> keras.Model:
    """Train a network of a run as notebook 03 or 04 does, unless that is done."""
    if run.fold is not None:
        item = _without_choice(item)
    network, folder = building.build_for_training(run.config, item), run.folder / item.name
    if isinstance(item, Network):
        state = folder / "from_scratch.state.npz"
        training.fit_run(run, network, run.images, item, stage="from scratch", state=state)
        return network
    head_inputs, inputs = feature_cache.cache_training(run, network, item)
    training.fit_run(
        run,
        network,
        head_inputs,
        item,
        first_layer="dense",
        stage_settings=item.frozen,
        class_balance=item.class_balance,
        stage="frozen",
        state=folder / f"frozen_{item.class_balance}.state.npz",
    )
    training.fit_run(
        run,
        network,
        inputs,
        item,
        first_layer=item.fine_tune.from_layer,
        stage_settings=item.fine_tune,
        seed=run.config.seed + 1,
        stage="fine-tuned",
        first_epoch=item.frozen.epochs + 1,
        state=folder / "fine_tuned.state.npz",
    )
    return network


def _without_choice(item: Network | Transfer) -> Network | Transfer:
    """Return the settings of a network with the last epoch kept in every stage."""
    last = {"keep": "last"}
    if isinstance(item, Network):
        return item.model_copy(update=last)
    stages = {"frozen": item.frozen, "fine_tune": item.fine_tune}
    return item.model_copy(update={name: s.model_copy(update=last) for name, s in stages.items()})


def write_outputs(run: TrainingRun, network: keras.Model, item: Network | Transfer) -> None:
    """Write what a trained network outputs for the held-out images, averaged over its views."""
    rows, exact = run.held_out.index, model_graph.in_float32(network)
    views = getattr(item, "test_time_views", 1)
    outputs = inference.predict(exact, run.images, rows, views=views)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image_id", *(f"output_{name}" for name in run.classes)])
    for row, values in zip(rows, outputs, strict=True):
        table.writerow([run.index[row]["image_id"], *(f"{value:.6g}" for value in values)])
    paths.write_text(run.folder / item.name / "outputs.csv", text.getvalue())


def main(arguments: list[str] | None = None) -> int:
    """Train the networks that the command line names, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.train", description=__doc__)
    parser.add_argument("config", help="a file such as configs/ham10000.yaml")
    parser.add_argument("--model", action="append", help="a name in `models`; by default all")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--fold", type=int, help="hold out the images of this fold")
    other.add_argument("--seed", type=int, help="train with this seed instead of the run's")
    options = parser.parse_args(arguments)
    given = options.config, options.model, options.fold, options.seed
    return run_command(lambda: train_models(*given))


def train_models(
    file: str, names: list[str] | None = None, fold: int | None = None, seed: int | None = None
) -> None:
    """Train networks of a run, by default all, and write the outputs of those of a fold or seed.

    Raises
    ------
    OSError, ValueError
        A file is missing or of another run, or there is no network of that name.
    """
    config = load_config(file)
    known = {item.name: item for item in [*config.networks, *config.transfers]}
    for name in names or []:
        if name not in known:
            raise ValueError(model_graph.unknown_name(file, "network", name, known))
    names = names or list(known)
    _require_weights([known[name] for name in names])
    run = TrainingRun(config, fold, seed)
    training.set_seed(run.config.seed)
    for name in names:
        print(f"{name}:", flush=True)
        if run.folder != run.home:
            (run.folder / name / "outputs.csv").unlink(missing_ok=True)
        network = train(run, known[name])
        if run.folder != run.home:
            write_outputs(run, network, known[name])


def _require_weights(items: list[Network | Transfer]) -> None:
    """Check that VGG16's weights are on this machine: a server may have no connection."""
    backbones = [item.backbone for item in items if getattr(item, "weights", None) == "imagenet"]
    if "VGG16" in backbones and not vgg16_weights.cache_file().is_file():
        raise FileNotFoundError(
            f"{paths.cache_folder()}: no weights of VGG16 there; copy vgg16_notop.npz from the "
            "cache folder of a machine that has them, or name its folder in SKIN_CACHE"
        )


if __name__ == "__main__":
    sys.exit(main())
