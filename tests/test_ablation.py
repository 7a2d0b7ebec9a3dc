"""The ablation: what it switches, that nothing is computed twice, and what it published."""

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import config, paths
from lib.config import Preprocessing
from lib.evaluation import bootstrap
from lib.networks import vgg16_weights
from lib.networks.backend import keras
from lib.preprocessing import pipeline
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
    monkeypatch.setattr(ablation, "PUBLISHED", tmp_path / "published")


@pytest.fixture(scope="module")
def published():
    return ablation.read_result()


# ------------------------------------------------------------------------------ what is compared


def test_the_steps_switch_every_setting_but_the_size():
    switched = {key for on in ablation.STEPS.values() for key in on}
    assert switched == Preprocessing.model_fields.keys() - {"image_size"}


def test_nothing_only_crops_and_resizes():
    assert list(pipeline.enabled_steps(ablation.NOTHING)) == ["crop and resize"]


def test_a_variant_applies_the_steps_that_it_names():
    for name, steps in ablation.variants().items():
        applied = pipeline.enabled_steps(ablation.settings_of(steps))
        assert set(applied) == {"crop and resize", *steps}, name


def test_each_step_is_compared_alone_and_with_the_others():
    steps = ablation.variants()
    pairs = {each.label: each for each in ablation.comparisons()}
    assert len(pairs) == len(steps) - 1
    for step in ablation.STEPS:
        alone = pairs[f"{step}, alone"]
        assert (steps[alone.more], steps[alone.less]) == ((step,), ())
    for step in ablation.EVERYTHING:
        pair = pairs[f"{step}, with the others"]
        assert set(steps[pair.more]) - set(steps[pair.less]) == {step}
        assert set(steps[pair.less]) < set(steps[pair.more]) == set(ablation.EVERYTHING)


def test_every_variant_but_nothing_is_the_subject_of_one_comparison():
    subjects = [ablation._subject(each) for each in ablation.comparisons()]
    assert ["nothing", *subjects] == list(ablation.variants())


# ---------------------------------------------------------------------------------- the features


def test_the_same_pixels_are_computed_once(folder, files, tmp_path):
    computed = []

    def forward(images):
        computed.extend(image.tobytes() for image in images)
        return colours(images)

    keys, kept = ablation.compute_features(folder, files, forward, "m", tmp_path / "kept.npz")
    assert len(computed) == len(set(computed)) == len(kept.features) == len(np.unique(keys))
    same = keys["bubble removal"] == keys["nothing"]
    assert not same["I00"] and same.drop("I00").all(), "only the first image has glare"
    assert (keys["contrast"] != keys["nothing"]).all()


def test_a_killed_run_goes_on_where_it_was(folder, files, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "CHUNK", 2)
    monkeypatch.setattr(ablation, "WRITE_EVERY", 0)
    batches = []

    def killed(images):
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(images)
        return colours(images)

    file = tmp_path / "kept.npz"
    with pytest.raises(KeyboardInterrupt):
        ablation.compute_features(folder, files, killed, "m", file)
    seconds = ablation._read_kept(file, "m").seconds
    rest = []

    def resumed(images):
        rest.append(images)
        return colours(images)

    keys, kept = ablation.compute_features(folder, files, resumed, "m", file)
    whole_keys, whole = ablation.compute_features(
        folder, files, colours, "m", tmp_path / "other.npz"
    )
    pd.testing.assert_frame_equal(keys, whole_keys)
    assert kept.features.keys() == whole.features.keys()
    for key, values in whole.features.items():
        np.testing.assert_array_equal(kept.features[key], values)
    assert len(rest) == 1, "two of three chunks were there"
    assert kept.seconds > seconds > 0


def test_features_of_another_model_are_not_taken(folder, files, tmp_path, capsys):
    file = tmp_path / "kept.npz"
    ablation.compute_features(folder, files[:1], colours, "one", file)
    _, kept = ablation.compute_features(folder, files[:1], lambda x: 0 * colours(x), "other", file)
    assert "is of another model: computed anew" in capsys.readouterr().out
    assert not any(values.any() for values in kept.features.values())


def test_features_are_float32_and_the_precision_is_set_back(monkeypatch):
    monkeypatch.setattr(ablation, "INPUT_SIZE", 32)
    monkeypatch.setattr(vgg16_weights, "load_vgg16_weights", lambda model: None)
    usual = keras.config.dtype_policy().name
    forward, name = ablation.load_features_model()
    assert keras.config.dtype_policy().name == usual != ablation.PRECISION
    features = forward(np.full((2, 256, 256, 3), 200, np.uint8))
    assert (features.shape, features.dtype) == ((2, 1280), np.float32)
    assert name.endswith(" 32 mixed_bfloat16")


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
    """Scores of every variant in two dealings and 1 + 400 draws, up and down together."""
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


def test_a_dealing_of_the_folds_that_differs_shows_in_the_range(scores, keys):
    scores["contrast"]["balanced_accuracy"] += np.array([[0.1], [0.3]])
    row = ablation.summarise(scores, keys).set_index("variant").loc["contrast"]
    found = row[["difference", "repeat_low", "repeat_high"]].tolist()
    assert found == pytest.approx([0.2, 0.1, 0.3])


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
    assert not np.allclose(probabilities, other), "another seed deals other folds"


# ----------------------------------------------------------------------------------- a whole run


def test_a_small_run_is_published_with_what_the_readme_says(folder, small):
    ablation.PUBLISHED.mkdir()
    readme = ablation.PUBLISHED / "README.md"
    readme.write_text(
        "Before.\n{}\nearlier\n{}\nAfter.\n".format(*ablation.MARKS), encoding="utf-8"
    )
    said = ablation.run(folder, lambda: (colours, "colours"))
    ablation.publish()
    result, read = ablation.read_result()
    assert read == said
    assert said["images"] == {"bcc": 6, "mel": 6, "nv": 6}
    assert said["images_there_are"] == {"bcc": 8, "mel": 8, "nv": 8}
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("Before.\n") and text.endswith(f"{ablation.MARKS[1]}\nAfter.\n")
    assert ablation.describe(result, said) in text and "earlier" not in text
    assert {file.name for file in ablation.PUBLISHED.iterdir()} == {*ablation.FILES, "README.md"}
    assert result["balanced_accuracy"].between(0.3, 0.99).any(), "some answers are wrong"
    recompute(result, ablation.read_answers())


def test_a_missing_class_is_named(write_folder):
    folder = write_folder([(f"I{i}", f"L{i}", "nv") for i in range(4)])
    with pytest.raises(ValueError, match="no image of class bcc; expected all of"):
        ablation.choose_images(folder)


def test_a_readme_without_a_place_for_the_result_is_left_alone(folder, small):
    ablation.PUBLISHED.mkdir()
    (ablation.PUBLISHED / "README.md").write_text("All else.", encoding="utf-8")
    with pytest.raises(ValueError, match="README.md: expected one '<!-- ablation"):
        ablation.publish()
    assert (ablation.PUBLISHED / "README.md").read_text(encoding="utf-8") == "All else."


# ------------------------------------------------------------------------------ what is published


def test_the_published_scores_follow_from_the_published_answers(published):
    result, said = published
    answers = ablation.read_answers()
    assert answers["label"].value_counts().to_dict() == said["images"]
    assert answers["group_id"].nunique() == said["groups"]
    recompute(result, answers)


def test_the_published_result_is_of_the_real_images_in_due_time(published):
    result, said = published
    assert said["images_there_are"] == {"bcc": 264, "mel": 491, "nv": 4323}
    assert said["images"] == {"bcc": 264, "mel": 491, "nv": ablation.IMAGES_PER_CLASS}
    assert result["variant"].tolist() == list(ablation.variants())
    assert said["comparisons"] == len(ablation.comparisons()) == result["compared"].count()
    assert said["cores"] == 2 and said["seconds"] < 40 * 60
    assert said["draws"] == ablation.DRAWS
    assert said["fold_seeds"] == list(ablation.REPEATS)


def test_the_published_steps_are_those_of_the_code(published):
    _, said = published
    steps = ablation.variants().items()
    assert said["settings"] == {
        name: ablation.settings_of(each).model_dump() for name, each in steps
    }


def test_the_published_readme_says_what_the_numbers_say(published):
    text = (ablation.PUBLISHED / "README.md").read_text(encoding="utf-8")
    assert ablation.describe(*published) in text
    for row in published[0].dropna(subset=["compared"]).to_dict("records"):
        ends = {"low": row["difference_low"], "high": row["difference_high"]}
        assert row["verdict"] == ablation.verdict(ends), row["compared"]


def test_the_published_figure_is_small():
    assert 0 < (ablation.PUBLISHED / "ablation.png").stat().st_size < 200_000


def recompute(result, answers):
    """Balanced accuracies, differences and their intervals, from the answers alone."""
    draws = bootstrap.lesion_weights(answers, ablation.DRAWS, ablation.SEED)
    of_class = [(answers["label"] == name).to_numpy() for name in ablation.CLASSES]

    def balanced(variant):
        right = answers[variant].to_numpy() / len(ablation.REPEATS)
        shares = [draws[:, each] @ right[each] / draws[:, each].sum(axis=1) for each in of_class]
        return np.mean(shares, axis=0)

    def ends(values):
        return [values[0], *np.quantile(values[1:], [0.025, 0.975])]

    found = {variant: balanced(variant) for variant in ablation.variants()}
    rows = result.set_index("variant")
    columns = ["balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high"]
    for variant, values in found.items():
        assert rows.loc[variant, columns].tolist() == pytest.approx(ends(values), abs=2e-6)
    for each in ablation.comparisons():
        row = rows[rows["compared"] == each.label].iloc[0]
        expected = ends(found[each.more] - found[each.less])
        columns = ["difference", "difference_low", "difference_high"]
        assert row[columns].tolist() == pytest.approx(expected, abs=2e-6), each.label


def test_the_prose_says_what_was_measured(published):
    """docs/results.md, notebook 02 and the configurations say in words what the verdicts are."""
    result, _ = published
    verdict = result.dropna(subset=["compared"]).set_index("compared")["verdict"]
    assert ablation.HELPS not in set(verdict)
    harmful = ["colour constancy, alone", "contrast, alone", "everything, together"]
    harmful += ["colour constancy, with the others"]
    assert set(verdict[verdict == ablation.HARMS].index) == set(harmful)
    auc = result.dropna(subset=["compared"]).set_index("compared")["auc_difference"]
    assert auc["hair removal, alone"].round(3) == -0.002
    assert auc["median filter, alone"].round(3) == 0.002
    low = result.set_index("variant")["difference_low"]
    assert low["the paper's steps"].round(3) == -0.014
    readme = (paths.ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for row in result.dropna(subset=["compared"]).to_dict("records"):
        if row["compared"].endswith(("alone", "together")):
            line = f"| {row['compared']} | {ablation._signed(row)} | {row['verdict']} |"
            assert line in readme


def test_what_harms_is_off_by_default():
    for file in (paths.ROOT / "configs").glob("*.yaml"):
        settings = config.load_config(file).preprocessing
        assert not settings.color_constancy and not settings.equalize_contrast, file.name
