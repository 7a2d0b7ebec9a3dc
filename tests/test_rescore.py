"""Published predictions, scored again: the same values, new scores, and all or nothing."""

import json
import shutil

import pandas as pd
import pytest
from test_metrics import MATTHEWS

from lib import paths, tables
from lib.evaluation import metrics
from lib.evaluation.scores import SCORES
from tools import publish, rescore, result_tables

PUBLISHED = sorted((paths.ROOT / "reports").glob("*/published/metrics.json"))


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A copy of what the demonstration published, and of both pages; return its folder."""
    monkeypatch.setattr(publish, "REPORTS", tmp_path / "reports")
    folder = tmp_path / "reports" / "demo" / "published"
    shutil.copytree(paths.ROOT / "reports" / "demo" / "published", folder)
    for name in ("README", "RESULTS"):
        copy = tmp_path / f"{name}.md"
        shutil.copyfile(getattr(result_tables, name), copy)
        monkeypatch.setattr(result_tables, name, copy)
    return folder


def read(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def contents(folder):
    """Return the bytes of the published files and of both pages."""
    files = [*folder.iterdir(), result_tables.README, result_tables.RESULTS]
    return {file: file.read_bytes() for file in files}


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.parent.parent.name)
def test_every_published_value_is_found_again(file):
    before, after = read(file.parent), rescore.rescored(file.parent)
    assert after.pop("schema_version") == metrics.SCHEMA_VERSION
    before.pop("schema_version", None)
    assert json.dumps(after) == json.dumps(before), "to the last digit, in the same order"


def test_only_the_scores_change_when_one_is_added(demo, monkeypatch):
    before = contents(demo)
    monkeypatch.setitem(SCORES, "matthews", MATTHEWS)
    assert rescore.rescore("demo") == demo / "metrics.json"
    changed = {file for file, content in contents(demo).items() if content != before[file]}
    assert changed <= {demo / "metrics.json", result_tables.README, result_tables.RESULTS}
    results = read(demo)
    for part in (results, results["cross_validation"]):
        for model in part["models"].values():
            assert all("matthews" in scores for scores in model["rules"].values())
    assert all("matthews" in pair for pair in results["differences"])
    page = result_tables.RESULTS.read_text(encoding="utf-8")
    assert "| macro AUC | Matthews correlation | melanoma sensitivity |" in page
    assert results["manifest"] == json.loads(before[demo / "metrics.json"])["manifest"]
    assert results["paper"] == json.loads(before[demo / "metrics.json"])["paper"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("split.csv", "split.csv is not the split of metrics.json"),
        ("predictions.csv", "the models and images of the predictions"),
        ("cross_validation.csv", "the models and images of the predictions"),
    ],
)
def test_files_that_do_not_belong_together_change_nothing(demo, name, found):
    table = pd.read_csv(demo / name, dtype={"image_id": str})
    test = table.index[table["split"] == "test"]
    tables.write_table(table.drop(index=test[0]), demo / name)
    before = contents(demo)
    with pytest.raises(ValueError, match=found):
        rescore.rescore("demo")
    assert contents(demo) == before


def test_a_page_that_cannot_be_written_changes_nothing(demo, monkeypatch):
    monkeypatch.setattr(rescore, "rescored", read)
    result_tables.RESULTS.write_text("no marks\n")
    before = contents(demo)
    with pytest.raises(ValueError, match=r"RESULTS\.md: expected one"):
        rescore.rescore("demo")
    assert contents(demo) == before


def test_a_file_without_its_settings_is_one_clear_error(demo, capsys):
    results = read(demo)
    del results["manifest"]["configuration"]
    tables.write_json(results, demo / "metrics.json")
    assert rescore.main(["demo"]) == 1
    assert (
        "metrics.json lacks manifest.configuration, which scoring needs" in capsys.readouterr().err
    )


def test_a_run_that_is_not_published_is_one_clear_error(demo, capsys):
    assert rescore.main(["another"]) == 1
    assert "metrics.json: no such file; `make publish` writes it" in capsys.readouterr().err
