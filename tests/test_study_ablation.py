"""The ablation: what it switches, how it scores, and that its committed files agree."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import tables
from lib.config import Preprocessing
from lib.evaluation import bootstrap
from lib.preprocessing import pipeline
from studies import features
from studies.preprocessing import ablation


def colours(images):
    """Cheap features: the mean colour of 16 fields."""
    fields = images.reshape(len(images), 4, 64, 4, 64, 3).mean(axis=(2, 4))
    return fields.reshape(len(images), -1).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 tiny images of three classes, each another texture; the first image has glare."""
    folder = tmp_path_factory.mktemp("ablation")
    (folder / "images").mkdir()
    random, rows = np.random.default_rng(0), []
    for i in range(24):
        label = ablation.CLASSES[i % 3]
        image = random.integers(60, 120, (8, 8, 3)).astype(np.uint8)
        image = cv2.resize(image, (48, 48), interpolation=cv2.INTER_CUBIC)
        image = image // 2 + 3 * (i % 3)
        if i == 0:
            image[20:22, 20:22] = 255
        cv2.imwrite(str(folder / "images" / f"I{i:02d}.png"), image)
        rows.append((f"L{i:02d}", f"I{i:02d}", label, "histo", 50.0, "female", "back"))
    names = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    pd.DataFrame(rows, columns=names).to_csv(folder / "HAM10000_metadata.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def files(folder):
    return pd.Series({f"I{i:02d}": f"images/I{i:02d}.png" for i in range(6)})


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A short run whose result goes into a folder of its own."""
    monkeypatch.setattr(ablation, "DRAWS", 200)
    monkeypatch.setattr(ablation, "REPEATS", range(2))
    monkeypatch.setattr(ablation, "FOLDS", 2)
    monkeypatch.setattr(ablation, "IMAGES_PER_CLASS", 6)
    monkeypatch.setattr(ablation, "RESULTS", tmp_path / "results")


def read_result():
    """The committed table and settings, or those of a small run."""
    table = tables.read_table(ablation.RESULTS / "ablation.csv", ablation.RESULT_SCHEMA)
    return table, json.loads((ablation.RESULTS / "ablation.json").read_text(encoding="utf-8"))


def read_correct():
    return tables.read_table(ablation.RESULTS / "ablation_answers.csv", ablation.CORRECT_SCHEMA)


@pytest.fixture(scope="module")
def published():
    return read_result()


# ------------------------------------------------------------------------------ what is compared


def test_each_measured_step_is_one_of_the_pipeline():
    assert set(ablation.STEPS) - {ablation.TWO_SCALES} <= set(pipeline.STEPS)


def test_nothing_only_crops_and_resizes():
    assert list(pipeline.enabled_steps(ablation.NOTHING)) == ["crop and resize"]


def test_a_variant_applies_the_steps_that_it_names():
    for name, steps in ablation.variants().items():
        settings = ablation.settings_of(steps)
        assert settings.thick_hair == (ablation.TWO_SCALES in steps), name
        expected = {"hair removal" if step == ablation.TWO_SCALES else step for step in steps}
        assert set(pipeline.enabled_steps(settings)) == {"crop and resize", *expected}, name


def test_each_step_is_compared_alone_and_with_the_others():
    steps = ablation.variants()
    pairs = {pair.label: pair for pair in ablation.comparisons()}
    assert len(pairs) == len(steps) - 1
    for step in ablation.STEPS:
        alone = pairs[f"{step}, alone"]
        assert (steps[alone.more], steps[alone.less]) == ((step,), ())
    for step in ablation.EVERYTHING:
        pair = pairs[f"{step}, with the others"]
        assert set(steps[pair.more]) - set(steps[pair.less]) == {step}
        assert set(steps[pair.less]) < set(steps[pair.more]) == set(ablation.EVERYTHING)


def test_every_variant_but_nothing_is_the_subject_of_one_comparison():
    subjects = [ablation.subject(pair) for pair in ablation.comparisons()]
    assert ["nothing", *subjects] == list(ablation.variants())


# ---------------------------------------------------------------------------------- the features


def test_variants_that_leave_an_image_unchanged_share_its_features(folder, files, tmp_path):
    store = features.FeatureStore(tmp_path / "features.npz", colours, "m")
    keys = ablation.compute_features(folder, files, store)
    assert len(store) == len(np.unique(keys))
    unchanged = keys["bubble removal"] == keys["nothing"]
    assert not unchanged["I00"] and unchanged.drop("I00").all(), "only the first image has glare"
    assert (keys["contrast"] != keys["nothing"]).all()


# ------------------------------------------------------------------------------------ the scores


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.001, 0.02, ablation.HELPS),
        (-0.02, -0.001, ablation.HARMS),
        (-0.01, 0.02, ablation.NO_DIFFERENCE),
        (0.0, 0.02, ablation.NO_DIFFERENCE),
        (-0.02, 0.0, ablation.NO_DIFFERENCE),
        (0.0, 0.0, ablation.NO_DIFFERENCE),
    ],
)
def test_the_verdict_is_whether_the_interval_excludes_zero(low, high, says):
    assert ablation.verdict({"low": low, "high": high}) == says


@pytest.fixture
def scores():
    """Scores of every variant in two repetitions and 1 + 400 draws, up and down together."""
    common = 0.6 + 0.05 * np.random.default_rng(0).normal(size=(2, 401))
    return {
        name: {"balanced_accuracy": common.copy(), "macro_auc": common.copy()}
        for name in ablation.variants()
    }


@pytest.fixture
def keys():
    return pd.DataFrame("same", index=["I1", "I2"], columns=list(ablation.variants()))


def test_differences_are_taken_draw_by_draw(scores, keys):
    """What goes up and down together differs by the same amount each time: no uncertainty."""
    scores["contrast"]["balanced_accuracy"] += 0.1
    keys.loc["I1", "contrast"] = "other"
    row = ablation.summarise(scores, keys).set_index("variant").loc["contrast"]
    ends = ["difference", "difference_low", "difference_high", "corrected_low", "repeat_high"]
    assert row[ends].tolist() == pytest.approx([0.1] * 5)
    assert (row["verdict"], row["against"], row["changed"]) == ("helps", "nothing", 0.5)
    assert row["balanced_accuracy_high"] - row["balanced_accuracy_low"] > 0.1


def test_what_scores_better_without_a_step_speaks_against_the_step(scores, keys):
    scores["everything but contrast"]["balanced_accuracy"] += 0.1
    result = ablation.summarise(scores, keys).set_index("variant")
    row = result.loc["everything but contrast"]
    assert row["difference"] == pytest.approx(-0.1)
    assert (row["verdict"], row["against"]) == ("harms", "everything")
    assert (
        result.drop("everything but contrast")["verdict"].dropna() == ablation.NO_DIFFERENCE
    ).all()


def test_the_last_digit_of_a_sum_is_no_difference(scores, keys):
    scores["contrast"]["balanced_accuracy"] -= 1e-12
    row = ablation.summarise(scores, keys).set_index("variant").loc["contrast"]
    assert row["verdict"] == ablation.NO_DIFFERENCE


def test_the_corrected_interval_is_wider(scores, keys):
    random = np.random.default_rng(1)
    scores["contrast"]["balanced_accuracy"] += 0.1 * random.normal(size=(2, 401))
    row = ablation.summarise(scores, keys).set_index("variant").loc["contrast"]
    assert row["corrected_low"] < row["difference_low"] < row["difference_high"]
    assert row["difference_high"] < row["corrected_high"]


def test_an_assignment_to_folds_that_differs_shows_in_the_range(scores, keys):
    scores["contrast"]["balanced_accuracy"] += np.array([[0.1], [0.3]])
    row = ablation.summarise(scores, keys).set_index("variant").loc["contrast"]
    columns = ["difference", "repeat_low", "repeat_high"]
    assert row[columns].tolist() == pytest.approx([0.2, 0.1, 0.3])


def test_no_image_is_predicted_by_a_classifier_that_saw_its_group():
    """Features that name the group and nothing else: no better than chance out of the folds."""
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(90), 4)
    images = pd.DataFrame({"group_id": [f"G{i:02d}" for i in group]})
    images["label"] = np.array(ablation.CLASSES)[group % 3]
    features = random.normal(size=(90, 200))[group] + 0.01 * random.normal(size=(360, 200))
    probabilities = ablation.predict_out_of_fold(images, features, seed=0)
    assert probabilities.shape == (360, 3)
    right = np.array(ablation.CLASSES)[probabilities.argmax(axis=1)] == images["label"]
    assert right.mean() < 0.5
    other = ablation.predict_out_of_fold(images, features, seed=1)
    assert not np.allclose(probabilities, other), "another seed assigns other folds"


# ----------------------------------------------------------------------------------- a whole run


def test_a_small_run_writes_files_that_agree(folder, small):
    written = ablation.measure(folder, lambda *_: (colours, "colours"))
    assert [file.name for file in written] == [
        "ablation.csv",
        "ablation_answers.csv",
        "ablation.json",
    ]
    result, settings = read_result()
    assert settings["images"] == {"bcc": 6, "mel": 6, "nv": 6}
    assert settings["available_images"] == {"bcc": 8, "mel": 8, "nv": 8}
    assert result["balanced_accuracy"].between(0.3, 0.99).any(), "some predictions are wrong"
    recompute(result, read_correct())


def test_a_missing_class_is_named(write_folder):
    folder = write_folder([(f"I{i}", f"L{i}", "nv") for i in range(4)])
    with pytest.raises(ValueError, match="no image of class bcc; expected all of"):
        ablation.choose_images(folder)


# ------------------------------------------------------------------------------ what is published


def test_the_committed_scores_follow_from_the_committed_predictions(published):
    result, settings = published
    correct = read_correct()
    assert correct["label"].value_counts().to_dict() == settings["images"]
    assert correct["group_id"].nunique() == settings["groups"]
    recompute(result, correct)


def test_the_committed_verdicts_are_those_of_the_intervals(published):
    for row in published[0].dropna(subset=["compared"]).to_dict("records"):
        ends = {"low": row["difference_low"], "high": row["difference_high"]}
        assert row["verdict"] == ablation.verdict(ends), row["compared"]


def test_the_published_result_is_of_the_real_images_in_due_time(published):
    result, settings = published
    assert settings["available_images"] == {"bcc": 264, "mel": 491, "nv": 4323}
    assert settings["images"] == {"bcc": 264, "mel": 491, "nv": ablation.IMAGES_PER_CLASS}
    assert result["variant"].tolist() == list(ablation.variants())
    assert settings["comparisons"] == len(ablation.comparisons()) == result["compared"].count()
    assert settings["cores"] == 2 and settings["seconds"] < 40 * 60
    assert settings["draws"] == ablation.DRAWS
    assert settings["fold_seeds"] == list(ablation.REPEATS)


def test_the_published_steps_are_those_of_the_code(published):
    """A step added since is off by default, and the published settings need not name it."""
    _, settings = published
    measured = {name: Preprocessing(**values) for name, values in settings["settings"].items()}
    assert measured == {
        name: ablation.settings_of(steps) for name, steps in ablation.variants().items()
    }


def recompute(result, correct):
    """Check balanced accuracies, differences and intervals against the predictions alone."""
    draws = bootstrap.lesion_weights(correct, ablation.DRAWS, ablation.SEED)
    classes = [(correct["label"] == name).to_numpy() for name in ablation.CLASSES]

    def balanced(variant):
        right = correct[variant].to_numpy() / len(ablation.REPEATS)
        recalls = [draws[:, rows] @ right[rows] / draws[:, rows].sum(axis=1) for rows in classes]
        return np.mean(recalls, axis=0)

    def ends(values):
        return [values[0], *np.quantile(values[1:], [0.025, 0.975])]

    scores = {variant: balanced(variant) for variant in ablation.variants()}
    rows = result.set_index("variant")
    columns = ["balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high"]
    for variant, values in scores.items():
        assert rows.loc[variant, columns].tolist() == pytest.approx(ends(values), abs=2e-6)
    for pair in ablation.comparisons():
        row = rows[rows["compared"] == pair.label].iloc[0]
        expected = ends(scores[pair.more] - scores[pair.less])
        columns = ["difference", "difference_low", "difference_high"]
        assert row[columns].tolist() == pytest.approx(expected, abs=2e-6), pair.label
