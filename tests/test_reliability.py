"""Subgroups, prediction sets, refusal and hidden parts: against worked or known values."""

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import mahalanobis

from lib.evaluation import bootstrap, conformal, refusal, reliability, subgroups
from lib.evaluation import reliability_findings as findings
from lib.networks import probes
from tools import predict

CLASSES = ["bcc", "mel", "nv"]


# ------------------------------------------------------------------------------------- subgroups


@pytest.fixture
def metadata():
    return pd.DataFrame(
        {
            "image_id": ["a", "b", "c"],
            "age": [29, 30, np.nan],
            "sex": ["male", None, "female"],
            "localization": ["back", "face", "back"],
            "dx_type": ["histo", "follow_up", np.nan],
        }
    )


def test_each_image_is_in_one_group_of_each_attribute(metadata):
    survey = pd.DataFrame({"skin_tone": ["tan", None, "light"], "hair": [True, None, False]})
    found = subgroups.assign(metadata, survey, ["hair"]).set_index("image_id")
    assert found.loc["a"].tolist() == [
        "0 to 29",
        "male",
        "back",
        "histopathology",
        "tan",
        "present",
    ]
    missing, none = subgroups.MISSING, "none found"
    assert found.loc["b"].tolist() == ["30 to 44", missing, "face", "other", missing, none]
    assert found.loc["c", "diagnosis"] == missing


def predicted(n, wrong=0, label="nv", start=0):
    """Return predictions of n lesions of a class; the first ones are called bcc."""
    ids = [f"{label}{i + start}" for i in range(n)]
    answers = ["bcc"] * wrong + [label] * (n - wrong)
    table = pd.DataFrame({"image_id": ids, "lesion_id": ids, "group_id": ids, "label": label})
    return table.assign(predicted=answers, predicted_equal_priors=answers)


def test_a_group_is_scored_by_its_own_images_and_a_small_one_is_not():
    parts = [predicted(30, 6), predicted(25, 5, "mel"), predicted(20, 0, "bcc")]
    table = pd.concat(parts, ignore_index=True)
    sexes = ["male"] * 30 + ["female"] * 45
    groups = pd.DataFrame({"image_id": table["image_id"]}).assign(
        **dict.fromkeys(subgroups.ATTRIBUTES, "all") | {"sex": sexes}
    )
    groups.loc[groups.index[:3], "site"] = "scalp"
    weights = bootstrap.lesion_weights(table, draws=200, seed=1)
    rows = subgroups.evaluate(table, groups, CLASSES, weights, 0.95)
    found = {(row["attribute"], row["group"]): row for row in rows}
    male, female = found["sex", "male"], found["sex", "female"]
    assert (male["lesions"], male["target_lesions"]) == (30, 0)
    assert male["accuracy"]["value"] == pytest.approx(24 / 30)
    assert male["balanced_accuracy"] is None, "two classes are missing"
    assert male["sensitivity"] is None, "it has no melanoma"
    assert female["sensitivity"]["value"] == pytest.approx(20 / 25)
    assert female["sensitivity"]["low"] < 0.8 < female["sensitivity"]["high"]
    assert found["age", "all"]["balanced_accuracy"]["value"] == pytest.approx((0.8 + 0.8 + 1) / 3)
    small = found["site", "scalp"]
    assert small["lesions"] == 3
    assert all(small[score] is None for score in ("accuracy", "balanced_accuracy", "specificity"))


def test_an_image_without_metadata_is_in_the_group_of_the_missing():
    table = predicted(25)
    groups = pd.DataFrame(columns=["image_id", *subgroups.ATTRIBUTES], dtype=str)
    weights = bootstrap.lesion_weights(table, draws=10, seed=1)
    rows = subgroups.evaluate(table, groups, CLASSES, weights, 0.95)
    assert {row["group"] for row in rows} == {subgroups.MISSING}
    assert {row["lesions"] for row in rows} == {25}


# --------------------------------------------------------------------------------- prediction sets


def draw(n, seed):
    """Return probabilities and classes drawn from them."""
    random = np.random.default_rng(seed)
    outputs = random.dirichlet([0.3, 0.3, 1.5], n)
    return outputs, np.array([random.choice(3, p=row) for row in outputs])


def test_a_p_value_counts_the_calibration_images_that_conform_no_better():
    outputs, targets = draw(200, seed=1)
    new, _ = draw(50, seed=2)
    found = conformal.p_values(outputs, targets, new)
    for i in range(3):
        own = outputs[targets == i, i]
        expected = [(1 + (own <= value).sum()) / (1 + len(own)) for value in new[:, i]]
        np.testing.assert_allclose(found[:, i], expected)


@pytest.mark.parametrize("level", conformal.LEVELS)
def test_sets_cover_every_class_rare_ones_as_well(level):
    """20 calibration sets: the mean coverage of a class is the level, within its random error."""
    covered = {i: [] for i in range(3)}
    for seed in range(20):
        outputs, targets = draw(600, seed)
        new, actual = draw(1000, 100 + seed)
        members = conformal.prediction_sets(conformal.p_values(outputs, targets, new), level)
        for i in range(3):
            covered[i] += members[actual == i, i].tolist()
    for i in range(3):
        assert np.mean(covered[i]) == pytest.approx(level, abs=0.02)


@pytest.mark.parametrize("level", conformal.LEVELS)
def test_a_p_value_of_exactly_one_minus_the_level_is_outside(level):
    p = np.array([[round(1 - level, 2), round(1.01 - level, 2)]])
    assert conformal.prediction_sets(p, level).tolist() == [[False, True]]


# ----------------------------------------------------------------------------------------- refusal


def probe_rows(kind, n, energy, distance, split="other", highest=0.9):
    rest = (1 - highest) / 2
    columns = {"prob_bcc": rest, "prob_mel": rest, "prob_nv": highest, "energy": energy}
    ids = [f"{kind} {split} {i}" for i in range(n)]
    return pd.DataFrame({"image_id": ids, "kind": kind, "split": split}).assign(
        model="vgg16_fine_tuned", label="nv", distance=distance, **columns
    )


@pytest.fixture
def strange():
    """Energy tells akiec and bkl; distance tells df and noise; uncertainty tells nothing."""
    known = np.linspace(0, 1, 100)
    return pd.concat(
        [
            probe_rows("held_out", 100, known, known, "validation"),
            probe_rows("held_out", 100, known, known, "test"),
            probe_rows("diagnosis akiec", 10, 5.0, 0.5),
            probe_rows("diagnosis bkl", 10, 4.0, 0.2),
            probe_rows("diagnosis df", 10, 0.5, 9.0),
            probe_rows("diagnosis vasc", 10, 0.5, 0.5),
            probe_rows("noise", 5, 0.1, 9.0),
        ],
        ignore_index=True,
    )


def test_the_score_is_chosen_on_two_diagnoses_and_reported_on_all_else(strange):
    result = refusal.evaluate(strange)
    assert result["chosen_on"] == ["diagnosis akiec", "diagnosis bkl"]
    assert result["reported_on"] == ["diagnosis df", "diagnosis vasc", "noise"]
    assert result["chosen"] == {"other diagnoses": "energy"}
    assert result["auroc"]["energy"]["diagnosis akiec"] == 1
    assert result["auroc"]["distance"]["noise"] == 1
    assert result["auroc"]["uncertainty"]["noise"] == 0.5
    assert result["refused"]["diagnosis akiec"] == 1
    assert result["refused"]["noise"] == 0
    assert result["refused"]["test"] == pytest.approx(0.05)


def test_no_test_image_has_a_say_in_which_score_is_chosen(strange):
    """On other test images energy would tell nothing; it is reported, and changes no choice."""
    changed = strange.copy()
    is_test = strange["split"] == "test"
    changed.loc[is_test, ["energy", "distance"]] = [9.0, 0.0]
    result, before = refusal.evaluate(changed), refusal.evaluate(strange)
    assert (result["chosen"], result["thresholds"]) == (before["chosen"], before["thresholds"])
    assert result["auroc"]["energy"]["diagnosis akiec"] == 0


def test_a_second_score_refuses_images_without_a_lesion(strange):
    strip = probe_rows("strip", 5, 0.1, 8.0)
    result = refusal.evaluate(pd.concat([strange, strip], ignore_index=True))
    assert result["chosen"] == {"other diagnoses": "energy", "no lesion": "distance"}
    assert result["chosen_on"] == ["diagnosis akiec", "diagnosis bkl", "noise"]
    assert result["thresholds"] == pytest.approx({"distance": 0.975, "energy": 0.975}, abs=0.01)
    assert result["refused"]["noise"] == result["refused"]["diagnosis akiec"] == 1
    assert result["refused"]["diagnosis vasc"] == 0
    assert result["refused"]["validation"] <= 0.05


def test_an_image_is_refused_if_one_score_is_above_its_threshold():
    scores = pd.DataFrame({"energy": [1, 3, 1, 9], "distance": [1, 1, 3, 9], "uncertainty": 9.0})
    thresholds = {"energy": 2.0, "distance": 2.0}
    assert refusal.refused(scores, thresholds).tolist() == [False, True, True, True]


def test_without_other_diagnoses_half_of_the_drawn_kinds_choose(strange):
    kinds = {"diagnosis akiec": "drawing", "diagnosis bkl": "strip", "diagnosis df": "white"}
    table = strange[strange["kind"] != "diagnosis vasc"].replace({"kind": kinds})
    result = refusal.evaluate(table)
    assert result["chosen_on"] == ["drawing", "noise"]
    assert result["reported_on"] == ["strip", "white"]


def test_errors_among_the_least_strange_images():
    curve = refusal.risk_coverage(np.array([3, 1, 2, 4]), np.array([False, True, False, True]))
    assert curve["coverage"].tolist() == [0.25, 0.5, 0.75, 1]
    assert curve["risk"].tolist() == pytest.approx([0, 1 / 2, 2 / 3, 1 / 2])


# ------------------------------------------------------------------------------------ hidden parts


def test_hidden_parts_have_the_colour_of_the_skin():
    image = np.full((6, 6, 3), 200, np.uint8)
    lesion = np.zeros((6, 6), bool)
    lesion[2:4, 2] = lesion[3, 3] = True
    image[lesion] = 50
    parts = probes.hide(image, lesion)
    np.testing.assert_array_equal(parts["lesion only"], image)
    assert (parts["background only"] == 200).all()
    image[2, 3] = 90  # beside the lesion, in its box
    image[0, 0] = 110
    parts = probes.hide(image, lesion)
    assert (parts["lesion only"][lesion] == 50).all()
    assert len(np.unique(parts["lesion only"][~lesion])) == 1
    assert parts["background only"][2, 3, 0] == 90
    assert parts["lesion covered"][2, 3, 0] not in (50, 90)
    assert parts["lesion covered"][0, 0, 0] == 110
    assert not (parts["lesion covered"] == 50).any()


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_that_hides_nothing_or_all_gives_no_image(value):
    assert probes.hide(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), value)) == {}


def test_an_image_of_another_diagnosis_that_cannot_be_used_is_left_out(write_folder, run):
    rows = [(f"I{i}", f"L{i}", dx) for i, dx in enumerate(["bkl", "bkl", "nv", "df", "vasc"])]
    folder = write_folder(rows)
    for i in (0, 2, 3):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 80, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"I{i}.jpg"), pixels)
    broken = folder / "images" / "I3.jpg"
    broken.write_bytes(broken.read_bytes()[:-2000])
    nothing = run_of(folder, run)
    strange = [row for row, _ in probes._all_images(nothing) if row["label"] != "none"]
    assert [(row["image_id"], row["kind"]) for row in strange] == [("I0", "diagnosis bkl")]


def run_of(folder, config):
    """Return a run on a folder that holds out no image."""
    held_out = pd.DataFrame(columns=["image_id", "split", "label"])
    names = {"config": config, "classes": config.classes, "data_folder": folder}
    return SimpleNamespace(held_out=held_out, read_mask=None, images=None, **names)


def test_images_without_a_lesion_repeat_and_differ():
    for kind, function in probes.NO_LESION.items():
        first, again, other = (function(np.random.default_rng(i)) for i in (3, 3, 4))
        assert first.dtype == np.uint8 and first.shape[2] == 3
        np.testing.assert_array_equal(first, again)
        assert (first != other).any(), kind
    assert probes.NO_LESION["strip"](np.random.default_rng(0)).shape == (40, 3000, 3)


# ----------------------------------------------------------------------------- distance of features


def test_the_distance_is_that_of_mahalanobis_to_the_nearest_class():
    random = np.random.default_rng(4)
    targets = np.repeat([0, 1], 300)
    features = random.normal(size=(600, 3)) * [1, 2, 3] + 10 * targets[:, None]
    space = probes.fit_space(features, targets)
    new = random.normal(size=(5, 3)) + 5
    expected = [min(mahalanobis(row, m, space.precision) ** 2 for m in space.means) for row in new]
    np.testing.assert_allclose(space.distance(new), expected)
    np.testing.assert_allclose(np.linalg.inv(space.precision).diagonal(), [1, 4, 9], rtol=0.2)
    assert space.distance(np.full((1, 3), 100.0)) > 100 * space.distance(features).mean()


# ------------------------------------------------------------------------------------ make predict


@pytest.mark.parametrize("refused", [True, False])
def test_a_refused_image_gets_no_answer(refused):
    strange = {"strange": {"distance": 812.0, "uncertainty": 0.1}, "refused": refused}
    strange["thresholds"] = {"distance": 140.0, "uncertainty": 0.4}
    table = predict._prediction([0.9, 0.1], [0.6, 0.4], strange, ["mel", "nv"], ["m", "n"])
    text = predict.as_text(Path("a.jpg"), table)
    assert ("most probable under" in text) != refused
    assert ("(Mahalanobis distance 812, threshold 140)" in text) == refused
    assert predict.DISCLAIMER in text
    values = json.loads(predict.as_json(Path("a.jpg"), table, "run", "model", "file"))
    assert values["refused"] == refused
    assert (values["strange"]["distance"], values["thresholds"]["distance"]) == (812, 140)


def test_a_network_without_a_threshold_refuses_nothing():
    table = predict._prediction([0.9, 0.1], [0.6, 0.4], {}, ["mel", "nv"], ["m", "n"])
    assert "most probable under" in predict.as_text(Path("a.jpg"), table)
    assert "refused" not in json.loads(predict.as_json(Path("a.jpg"), table, "r", "m", "f"))


# --------------------------------------------------------------------------------------- sentences


def hidden_table(kind, answers, split="test"):
    """Return probes that answer each of six images with a class, beyond doubt."""
    columns = {f"prob_{name}": [float(name == a) for a in answers] for name in CLASSES}
    ids = [str(i) for i in range(len(answers))]
    rows = pd.DataFrame({"image_id": ids, "kind": kind, "split": split}).assign(**columns)
    return rows.assign(model="m", label=answers, energy=0.0, distance=0.0)


def test_a_network_that_reads_the_background_is_exposed():
    actual = ["bcc", "mel", "nv"] * 20
    table = pd.concat([predicted(1, 0, label, start=i) for i, label in enumerate(actual)])
    test = table.assign(image_id=[str(i) for i in range(60)], model="m", split="test")
    blind = pd.concat([hidden_table(kind, actual) for kind in ("held_out", *reliability.HIDDEN)])
    note = {"classes": CLASSES, "training_prior": dict.fromkeys(CLASSES, 1 / 3)}
    part = reliability.hidden_parts(blind, test, note, 100, 0.95)
    assert part["images"] == 60
    assert {kind: s["value"] for kind, s in part["balanced_accuracy"].items()} == dict.fromkeys(
        (reliability.WHOLE, *reliability.HIDDEN), 1
    )
    network = {"title": "A network", **part}
    text = findings.shortcuts({"classes": CLASSES, "hidden": {"m": network}})
    assert "(chance 0.333): *A network*, background only **1.000 (1.000 to 1.000)**; " in text
    assert text.endswith("lesion covered **1.000 (1.000 to 1.000)**.")
    box = {"value": 0.5, "low": 0.4, "high": 0.6}
    text = findings.shortcuts({"classes": CLASSES, "hidden": {"m": network}, "lesion_box": box})
    assert text.endswith("; from size and place of the lesion's box alone 0.500 (0.400 to 0.600).")


def test_the_most_confident_errors_are_listed_once_a_lesion():
    table = pd.concat([predicted(4, 3), predicted(3, 1, "mel")], ignore_index=True)
    table = table.assign(prob_bcc=[0.7, 0.9, 0.8, 0.1, 0.6, 0, 0], prob_mel=0.0, prob_nv=0.3)
    table.loc[2, "group_id"] = table.loc[1, "group_id"]
    found = reliability.errors(table, CLASSES, n=2)
    assert [(row["image_id"], row["probability"]) for row in found] == [
        ("mel0", 0.6),
        ("nv1", 0.9),
        ("nv0", 0.7),
    ]
    assert "nv1, nv predicted as bcc with a probability of **0.90**" in findings.worst_error(
        {"errors": found}
    )


@pytest.fixture
def results(strange):
    interval = {"value": 0.8, "low": 0.7, "high": 0.9}
    scores = dict.fromkeys(
        ("accuracy", "balanced_accuracy", "sensitivity", "specificity"), interval
    )
    group = {"attribute": "diagnosis", "group": "histopathology", "lesions": 40} | scores
    other = group | {"group": "other", "balanced_accuracy": {"value": 0.6, "low": 0.5, "high": 0.7}}
    cover = {"lesions": 40, "coverage": interval, "size": 1.5, "single": 0.5}
    names = [("all", "all"), *(("class", name) for name in CLASSES)]
    rows = [{"attribute": attribute, "group": name} | cover for attribute, name in names]
    return {
        "classes": CLASSES,
        "subgroups": [group, other],
        "hidden": {"m": {"title": "A", "balanced_accuracy": dict.fromkeys(
            (reliability.WHOLE, *reliability.HIDDEN), interval
        )}},
        "conformal": {"0.90": rows, "0.95": rows},
        "refusal": refusal.evaluate(strange),
        "errors": [{"image_id": "x", "label": "mel", "predicted": "nv", "probability": 0.95}],
    }  # fmt: skip


def smaller(values):
    if isinstance(values, dict):
        return {key: smaller(value) for key, value in values.items()}
    if isinstance(values, list):
        return [smaller(value) for value in values]
    return values * 0.9 if isinstance(values, float) else values


@pytest.mark.parametrize(
    "sentence",
    [findings.groups, findings.histopathology, findings.shortcuts, findings.coverage]
    + [findings.strangers, findings.worst_error],
    ids=lambda function: function.__name__,
)
def test_sentences_follow_the_file(results, sentence):
    numbers = r"\d+\.\d+"
    before = re.findall(numbers, sentence(results))
    after = re.findall(numbers, sentence(smaller(copy.deepcopy(results))))
    assert before and len(before) == len(after)
    assert before != after


def test_groups_that_are_all_too_small_are_said_to_be(results):
    for row in results["subgroups"]:
        row |= dict.fromkeys(("accuracy", "balanced_accuracy"))
    assert "lowest –" in findings.groups(results)
    assert "2 of 2 subgroups have fewer than 20 lesions" in findings.groups(results)
    assert "is **–**, on the others –" in findings.histopathology(results)
