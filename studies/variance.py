"""How much scores vary with the seed of a training, and from fold to fold.

For a run that is finished. What trains in minutes is trained five times, with other seeds, and
scored on the test images: random forests and new heads on cached features. What has no random start
is trained once a fold, and scored on the images of that fold: support vector machines and linear
classifiers on frozen features. Networks are scored if `python -m tools.train` has trained them with
`--seed` or `--fold`.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from lib import models, paths, stages, tables
from lib.config import Handcrafted, Transfer
from lib.evaluation import metrics, prediction_files, priors, variance
from lib.evaluation.scores import SCORES
from lib.features import handcrafted
from lib.networks import (
    array_files,
    batching,
    building,
    feature_cache,
    inference,
    model_graph,
    saving,
    training,
)
from lib.run import Run, open_run
from studies import command

SEEDS = (1, 2, 3, 4, 5)
#: The name of a model, what varies, its number, the file that it is read from, if any, and a
#: function that returns its predictions.
Training = tuple[str, str, int, Path | None, Callable[[], pd.DataFrame]]
#: The code that decides about features and networks.
_CODE = model_graph.digest_of(
    [*stages.code_of("features").values(), *stages.code_of("transfer").values()]
)


def trainings(run: Run) -> Iterator[Training]:
    """Yield every training of a run that is to be scored."""
    for item in run.config.handcrafted:
        yield from _handcrafted_trainings(run, item)
    for item in run.config.transfers:
        yield from _head_trainings(run, item)
    yield from _linear_trainings(run)
    for item in [*run.config.networks, *run.config.transfers]:
        yield from _network_trainings(run, item)


def _handcrafted_trainings(run: Run, item: Handcrafted) -> Iterator[Training]:
    if item.classifier == "random_forest":
        train = run.index.loc[run.rows("train")]
        for seed in SEEDS:

            def predict(seed=seed):
                posteriors = _fit_handcrafted(run, item, train, run.held_out, seed)
                return _test(run.prediction_table(item.name, posteriors))

            yield item.name, "seed", seed, None, predict
        return
    for fold in range(run.config.split.folds):

        def predict(fold=fold):
            inside, outside = (run.index[part] for part in _parts(run, fold))
            posteriors = _fit_handcrafted(run, item, inside, outside, run.config.seed)
            return _fold_table(run, item.name, fold, posteriors)

        yield item.name, "fold", fold, None, predict


def _fit_handcrafted(run, item, inside, outside, seed) -> np.ndarray:
    table = _features(run)
    if not item.masks:
        groups = table.columns.map(handcrafted.feature_group)
        table = table.loc[:, ~groups.isin(handcrafted.MASK_GROUPS)]
    return handcrafted.fit_predict(
        item.classifier,
        table.loc[inside.index],
        inside["label"],
        inside["group_id"],
        table.loc[outside.index],
        run.classes,
        seed,
    )


@functools.cache
def _features(run: Run) -> pd.DataFrame:
    """Return the hand-crafted features of all images, as notebook 03 computes them."""
    return handcrafted.feature_table(run.images, run.read_mask if run.has_mask.all() else None)


def _head_trainings(run: Run, item: Transfer) -> Iterator[Training]:
    """Yield new heads on the features that notebook 04 has cached, with other first weights."""
    name = f"{item.name}_frozen"
    for seed in SEEDS:

        def predict(seed=seed):
            features = _cached(run, item.name)
            network = _build(run, item, seed)
            training.fit_run(
                run,
                network,
                features.head,
                item,
                first_layer="dense",
                stage_settings=item.frozen,
                seed=seed,
                stage="frozen",
                state=_work(run) / f"{name}_{seed}.state.npz",
                verbose=False,
            )
            head = model_graph.in_float32(model_graph.split_before(network, "dense")[1])
            outputs = inference.forward(head, features.held_out)
            outputs = outputs.reshape(item.test_time_views, len(run.held_out), -1)
            outputs = priors.average_views(outputs)
            return _calibrated_test(run, name, item.class_balance, outputs)

        yield name, "seed", seed, None, predict


@functools.cache
def _cached(run: Run, name: str) -> feature_cache.RunFeatures:
    item = run.config.model(name)
    return feature_cache.cache_run(run, _build(run, item, run.config.seed), item)


def _build(run: Run, item: Transfer, seed: int):
    return building.build_for_training(run.config.model_copy(update={"seed": seed}), item)


def _linear_trainings(run: Run) -> Iterator[Training]:
    """Yield the folds of notebook 04's cross-validation."""
    table = prediction_files.read_cross_validation(run.config, run.index)
    if table is not None:
        for (name, fold), rows in table.groupby(["model", "fold"], sort=True):
            file = run.folder / name.removesuffix("_linear") / "cross_validation.csv"
            yield name, "fold", int(fold), file, functools.partial(rows.drop, columns="fold")


def _network_trainings(run: Run, item) -> Iterator[Training]:
    """Yield what `tools.train` has trained on other folds, or with other seeds."""
    name = f"{item.name}_fine_tuned" if isinstance(item, Transfer) else item.name
    prior = batching.output_prior(run.class_prior, item.class_balance)
    for file in sorted(run.folder.glob(f"seeds/*/{item.name}/outputs.csv")):

        def predict(file=file):
            outputs = _read_outputs(file, run.held_out, run.classes)
            return _calibrated_test(run, name, item.class_balance, outputs)

        yield name, "seed", int(file.parts[-3]), file, predict
    for file in sorted(run.folder.glob(f"folds/*/{item.name}/outputs.csv")):
        fold = int(file.parts[-3])

        def predict(file=file, fold=fold):
            outputs = _read_outputs(file, run.index[_parts(run, fold)[1]], run.classes)
            after = priors.fold_prior(run.index, fold, run.classes)
            before = after if item.class_balance == "none" else prior
            return _fold_table(run, name, fold, priors.change_prior(outputs, before, after))

        yield name, "fold", fold, file, predict


def _read_outputs(file: Path, images: pd.DataFrame, classes: list[str]) -> np.ndarray:
    columns = [f"output_{name}" for name in classes]
    numbers = {name: pa.Column(float, pa.Check.in_range(0, 1)) for name in columns}
    schema = pa.DataFrameSchema({"image_id": pa.Column(str, unique=True)} | numbers, strict=True)
    table = tables.read_table(file, schema).set_index("image_id")
    if set(table.index) != set(images["image_id"]):
        raise ValueError(
            f"{paths.relative(file)} is of another split: {len(table)} images; expected the "
            f"{len(images)} that its training held out; delete it and train again"
        )
    return table.loc[images["image_id"], columns].to_numpy()


def _calibrated_test(run: Run, name: str, class_balance: str, outputs: np.ndarray) -> pd.DataFrame:
    """Return predictions of the test images, calibrated on the validation images."""
    posteriors = saving.fit_calibration(run, class_balance, outputs).apply(outputs)
    return _test(run.prediction_table(name, posteriors))


def _test(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions[predictions["split"] == "test"]


def _parts(run: Run, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which images a model is trained on, and which it predicts."""
    outside = (run.index["fold"] == fold).to_numpy()
    return ~outside, outside


def _fold_table(run: Run, name: str, fold: int, posteriors: np.ndarray) -> pd.DataFrame:
    prior = priors.fold_prior(run.index, fold, run.classes)
    rows = run.index[_parts(run, fold)[1]]
    return prediction_files.prediction_table(name, rows, posteriors, run.classes, prior)


def score(run: Run, name: str, predictions: pd.DataFrame) -> dict:
    """Return the number of images, and each of `SCORES` with its interval over lesions."""
    options = metrics.settings(run.config.model_dump())
    scored = metrics.evaluate_models(predictions, {name: name}, **options)
    scores = scored["models"][name]["rules"][priors.PRIMARY_RULE]
    return {"images": len(predictions), "scores": {key: scores[key] for key in SCORES}}


def _work(run: Run) -> Path:
    folder = command.work_folder("variance") / run.config.name
    folder.mkdir(exist_ok=True)
    return folder


def schema() -> pa.DataFrameSchema:
    """Return the schema of `<run>.csv`: the scores of one training in each row.

    With a seed they are those of the test images. With a fold they are those of its images, by a
    model that was trained on all others.
    """
    columns = {
        "model": pa.Column(str),
        "varied": pa.Column(str, pa.Check.isin(["seed", "fold"])),
        "number": pa.Column(int, pa.Check.ge(0)),
        "images": pa.Column(int, pa.Check.ge(1)),
    }
    columns |= {name: pa.Column(float) for name in SCORES}
    return pa.DataFrameSchema(columns, unique=["model", "varied", "number"], strict=True)


def summarise(table: pd.DataFrame) -> list[dict]:
    """Return mean, deviation and extremes of each score, as `lib.evaluation.variance` reads them.

    Parameters
    ----------
    table : DataFrame
        `schema`.
    """
    summary = []
    for (model, varied), rows in table.groupby(["model", "varied"], sort=False):
        if len(rows) < 2:
            continue  # one training has no spread
        row = {"model": model, "varied": varied, "trainings": len(rows)}
        for name in SCORES:
            values = rows[name].agg(["mean", "std", "min", "max"]).round(6).tolist()
            row[name] = dict(zip(("mean", "deviation", "low", "high"), values, strict=True))
        summary.append(row)
    return summary


def first_seeds(rows: list[dict], titles: dict[str, str]) -> dict:
    """Return each model's training with the lowest seed, in the form of `metrics.json`.

    For runs that are not published: its intervals over lesions stand beside the spread over seeds.
    """
    seeds = [row for row in rows if row["varied"] == "seed"]
    return {
        row["model"]: {"title": titles[row["model"]], "rules": {priors.PRIMARY_RULE: row["scores"]}}
        for row in sorted(seeds, key=lambda row: -row["number"])
    }


def measure(file: Path) -> list[Path]:
    """Score every training of a finished run; return the files written.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such configuration, or its run is not finished.
    """
    run = open_run(file)
    training.set_seed(run.config.seed)
    state, key = _work(run) / "scores.json", variance.key(run.config, run.index)
    key |= {"code": _CODE, "evaluation": run.config.evaluation.model_dump(mode="json")}
    done = paths.read_note(state, {"key", "rows"}, "everything is measured again")
    before, rows = done["rows"] if done.get("key") == key else {}, {}
    for name, varied, number, source, predict in trainings(run):
        label = f"{name} {varied} {number}" + (
            f" {array_files.file_digest(source)}" if source else ""
        )
        row = {"model": name, "varied": varied, "number": number}
        rows[label] = before.get(label) or row | score(run, name, predict())
        tables.write_json({"key": key, "rows": before | rows}, state)
        print(rows[label], flush=True)
    rows, titles = list(rows.values()), models.titles(run.config)
    order, values = list(titles), [{k: row["scores"][k]["value"] for k in SCORES} for row in rows]
    table = pd.DataFrame(rows).drop(columns="scores").join(pd.DataFrame(values).round(6))
    table = schema().validate(table)
    table = table.sort_values("model", key=lambda names: names.map(order.index), kind="stable")
    note = {"run": run.config.name} | variance.key(run.config, run.index)
    note |= command.describe_machine() | {"summary": summarise(table)}
    note["first_seeds"] = first_seeds(rows, titles)
    target = variance.FOLDER / f"{run.config.name}.csv"
    target.with_suffix(".json").unlink(missing_ok=True)
    return [
        tables.write_table(table, target),
        tables.write_json(note, target.with_suffix(".json")),
    ]


if __name__ == "__main__":
    sys.exit(
        command.main(
            "Measure how much the scores of a finished run vary.",
            measure,
            argument=("config", "the run, such as configs/ham10000.yaml"),
        )
    )
