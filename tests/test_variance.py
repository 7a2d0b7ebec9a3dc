"""The spread of scores over seeds and folds, beside their intervals over lesions."""

import json

import pandas as pd
import pytest

from lib import paths, tables
from lib.evaluation import variance
from studies import variance as study
from tools import result_tables

INDEX = pd.DataFrame(
    {
        "image_id": ["a", "b"],
        "lesion_id": ["l", "m"],
        "group_id": ["l", "m"],
        "split": ["train", "test"],
        "fold": [0, 1],
    }
)
INTERVAL = {"value": 0.8, "low": 0.7, "high": 0.9}
MODEL = {
    "title": "A forest",
    "rules": {"equal_priors": dict.fromkeys(result_tables.SCORES, INTERVAL)},
}
MODELS = {"models": {"forest": MODEL, "svm": MODEL}}


def test_the_interval_beside_the_spread_is_that_of_the_lowest_seed():
    rows = [
        {"model": "forest", "varied": "seed", "number": number, "scores": {"accuracy": number}}
        for number in (3, 2, 4)
    ]
    rows.append({"model": "svm", "varied": "fold", "number": 0, "scores": {}})
    expected = {"title": "A forest", "rules": {"equal_priors": {"accuracy": 2}}}
    assert study.first_seeds(rows, {"forest": "A forest"}) == {"forest": expected}


@pytest.fixture
def measured(run, tmp_path, monkeypatch):
    """Write the scores of three trainings; return the folder."""
    scores = {"accuracy": 0.7, "macro_auc": 0.9, "images": 1}
    rows = [
        {"model": "forest", "varied": "seed", "number": i, "balanced_accuracy": value} | scores
        for i, value in enumerate((0.80, 0.82, 0.87), start=1)
    ]
    perfect = {"varied": "fold", "balanced_accuracy": 1} | scores
    rows += [{"model": "svm", "number": number} | perfect for number in (0, 1)]
    rows.append({"model": "trained_once", "number": 0} | perfect)
    table = pd.DataFrame(rows)[["model", "varied", "number", "images", *result_tables.SCORES]]
    note = variance.key(run, INDEX) | {"summary": study.summarise(study.schema().validate(table))}
    tables.write_json(note, tmp_path / f"{run.name}.json")
    monkeypatch.setattr(variance, "FOLDER", tmp_path)
    return tmp_path


def test_the_spread_is_mean_standard_deviation_and_extremes(run, measured):
    """0.80, 0.82, 0.87: mean 0.83, squared deviations 9, 1 and 16 in 1e-4, 26 / 2 = 13."""
    forest, svm = variance.summarise(run, INDEX)
    assert (forest["model"], forest["varied"], forest["trainings"]) == ("forest", "seed", 3)
    expected = {"mean": 0.83, "deviation": 0.0013**0.5, "low": 0.80, "high": 0.87}
    assert forest["balanced_accuracy"] == pytest.approx(expected, abs=1e-6)
    assert (svm["model"], svm["trainings"]) == ("svm", 2)


def test_what_was_measured_on_another_split_or_with_other_settings_is_not_shown(run, measured):
    assert variance.summarise(run, INDEX.assign(split=["test", "train"])) == []
    assert variance.summarise(run.model_copy(update={"name": "other"}), INDEX) == []
    augmentation = run.augmentation.model_copy(update={"zoom": 0.2})
    changed = run.model_copy(update={"augmentation": augmentation})
    assert variance.summarise(changed, INDEX) == []


def test_the_interval_over_lesions_is_beside_the_spread_over_trainings(run, measured):
    table = variance.table(MODELS | {"variance": variance.summarise(run, INDEX)})
    assert table.index.tolist() == [("A forest", "3 seeds"), ("A forest", "2 folds")]
    assert table["balanced accuracy"].iloc[0].tolist() == [
        "0.800 (0.700 to 0.900)",
        "0.830 ± 0.036",
    ]


def test_the_model_that_varies_most_is_named(run, measured):
    text = variance.finding(MODELS | {"variance": variance.summarise(run, INDEX)})
    assert text == (
        "Of the models trained with several seeds, *A forest* varies most in balanced accuracy: "
        "**0.800 to 0.870**, on the same test images."
    )
    assert "has not been measured" in variance.finding(MODELS | {"variance": []})


def test_a_score_that_was_added_later_is_a_dash(run, measured):
    summary = [
        {k: v for k, v in row.items() if k != "macro_auc"} for row in variance.summarise(run, INDEX)
    ]
    table = variance.table(MODELS | {"variance": summary})
    assert table["macro AUC"].iloc[0].tolist() == ["0.800 (0.700 to 0.900)", "–"]


def test_the_readme_shows_both_for_a_run_that_was_measured(run, measured):
    file = paths.ROOT / "reports" / "demo" / "published" / "metrics.json"
    results = json.loads(file.read_text(encoding="utf-8")) | {"variance": []}
    results["models"]["forest"] = results["models"]["majority"] | {"title": "A forest"}
    assert "How the balanced accuracy varies" not in result_tables.headline_section([results])
    measured = results | {"variance": variance.summarise(run, INDEX)}
    text = result_tables.headline_section([measured])
    assert "How the balanced accuracy varies" in text
    assert "*A forest* 0.830 ± 0.036 over 3 seeds, 0.333 (0.333 to 0.333)" in text
