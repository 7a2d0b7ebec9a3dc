"""The README and docs/results.md quote the studies' committed files."""

import json

import pandas as pd
import pytest

from lib import config, paths
from lib.evaluation import bootstrap

STUDIES = paths.ROOT / "reports" / "studies"


@pytest.fixture(scope="module")
def text():
    files = [paths.ROOT / "README.md", *(paths.ROOT / "docs").glob("*.md")]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def read_json(name):
    return json.loads((STUDIES / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def comparisons():
    table = pd.read_csv(STUDIES / "preprocessing" / "ablation.csv")
    return table.dropna(subset=["compared"]).set_index("compared")


def test_the_leakage_scores_are_quoted(text):
    for classifier, ways in read_json("leakage/leakage.json")["scores"].items():
        cells = [
            bootstrap.format_interval(ways[way]["balanced_accuracy"])
            for way in ("by image", "by lesion", "by image − by lesion")
        ]
        assert f"| {classifier} | {' | '.join(cells)} |" in text


def test_the_effect_of_augmentation_is_quoted(text):
    table = pd.read_csv(STUDIES / "augmentation" / "scores.csv").dropna(subset=["minus"])
    for (kind, less), rows in table.groupby(["augmentation", "minus"]):
        values = rows.set_index("score").loc[["accuracy", "balanced_accuracy", "macro_auc"]]
        cells = [f"{r.value:+.3f} ({r.low:+.3f} to {r.high:+.3f})" for r in values.itertuples()]
        assert f"| {kind} minus {less} | {' | '.join(cells)} |" in text


def test_the_ablation_is_quoted(text, comparisons):
    for name, row in comparisons.iterrows():
        if name.endswith(("alone", "together")):
            ends = f"({row['difference_low']:+.3f} to {row['difference_high']:+.3f})"
            assert f"| {name} | {row['difference']:+.3f} {ends} | {row['verdict']} |" in text


def test_what_the_prose_says_of_the_ablation_holds(comparisons):
    """Nothing helps; colour constancy and contrast harm; the bounds that the text names."""
    verdict = comparisons["verdict"]
    assert set(verdict) == {"harms", "no detectable difference"}
    assert verdict[verdict == "harms"].index.tolist() == [
        "colour constancy, alone",
        "contrast, alone",
        "everything, together",
        "colour constancy, with the others",
    ]
    auc = comparisons["auc_difference"].round(3)
    assert (auc["hair removal, alone"], auc["median filter, alone"]) == (-0.002, 0.002)
    assert comparisons["difference_low"].round(3)["the paper's steps, together"] == -0.014


def test_what_harms_is_off_by_default():
    for file in (paths.ROOT / "configs").glob("*.yaml"):
        settings = config.load_config(file).preprocessing
        assert not settings.color_constancy and not settings.equalize_contrast, file.name


def test_the_false_alarms_of_hair_removal_are_quoted(text):
    group = read_json("preprocessing/real_images.json")["false_alarms"]["fresh hairless"]
    low, value, high = (100 * group["inside"][key] for key in ("low", "value", "high"))
    assert f"On {group['images']} real images without hair" in text
    assert f"it changes {value:.2f}% ({low:.2f} to {high:.2f}) of the pixels" in text


def test_the_speed_of_preprocessing_is_quoted(text):
    times = read_json("speed/preprocessing.json")["times_the_textbook_loop"]["all cores"]["value"]
    assert f"on two cores {times:.1f} times the recipe in a plain loop" in text
