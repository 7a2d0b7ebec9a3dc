"""Scores on real images: the list of hairless ones, what is measured, and the committed files."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import tables
from lib.data import datasets
from lib.preprocessing import pipeline
from studies.preprocessing import ablation, real_images

LINE = "order,image_id,verdict\n"


def read_tables():
    schemas = {
        "false_alarms": real_images.ALARM_SCHEMA,
        "noise": real_images.NOISE_SCHEMA,
        "channel_statistics": real_images.CHANNEL_SCHEMA,
        "histograms": real_images.HISTOGRAM_SCHEMA,
    }
    return {
        name: tables.read_table(real_images.RESULTS / f"{name}.csv", schema)
        for name, schema in schemas.items()
    }


def read_summary():
    return json.loads((real_images.RESULTS / "real_images.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def published():
    return read_tables()


@pytest.fixture(scope="module")
def summary():
    return read_summary()


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(real_images, "DRAWS", 200)


@pytest.fixture
def strand_folder(write_folder):
    """Two images of flat skin, the lesion their left half; I1 has a dark strand in it."""
    folder = write_folder([("I0", "L0", "nv"), ("I1", "L1", "nv"), ("I2", "L2", "nv")])
    (folder / "masks").mkdir()
    lesion = np.zeros((256, 256), np.uint8)
    lesion[:, :128] = 255
    for name in ("I0", "I1"):
        image = np.full((256, 256, 3), 200, np.uint8)
        if name == "I1":
            cv2.line(image, (60, 40), (60, 200), (60, 60, 60), 2)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 100]
        cv2.imwrite(str(folder / "images" / f"{name}.jpg"), image, quality)
        cv2.imwrite(str(folder / "masks" / f"{name}_segmentation.png"), lesion)
    return folder


def judged(names, verdict="hairless"):
    return pd.DataFrame({"order": range(len(names)), "image_id": names, "verdict": verdict})


# ---------------------------------------------------------------------------- the list that exists


def test_200_of_the_images_that_were_looked_at_are_hairless_and_then_60_fresh_ones():
    verdict = real_images.read_hairless()["verdict"]
    fresh = verdict.str.startswith("fresh ")
    counts = verdict[~fresh].value_counts().to_dict()
    assert counts == {"hairless": 200, "unsure": 242, "hair": 814}
    assert (verdict[fresh] == "fresh hairless").sum() == 60
    assert fresh.is_monotonic_increasing, "first those that were seen, then the fresh ones"
    assert verdict[~fresh].iloc[-1] == "hairless", "looking ended with the 200th"
    assert verdict.iloc[-1] == "fresh hairless", "and with the 60th"


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("0,I0,hairless\n1,I1,bald\n", "column verdict, isin.*: 'bald' in row 3"),
        ("0,I0,hairless\n2,I1,hair\n", "column order, counted from 0: 2 in row 3"),
        ("0,I0,hairless\n1,I0,hair\n", "column image_id, field_uniqueness: 'I0'"),
    ],
)
def test_a_faulty_list_is_refused(tmp_path, rows, fault):
    file = tmp_path / "hairless.csv"
    file.write_text(LINE + rows, encoding="utf-8")
    with pytest.raises(ValueError, match=f"(?s)hairless.csv: not as expected.*{fault}"):
        real_images.read_hairless(file)


def test_the_list_follows_the_seeded_rule(ham10000):
    order = real_images.judging_order(ham10000)
    chosen = real_images.read_hairless()
    assert order[: len(chosen)] == chosen["image_id"].tolist()
    assert len(order) == len(set(order)) > len(chosen)


# ------------------------------------------------------------------------------- what is measured


def test_shares_are_of_the_pixels_inside_and_outside_the_mask(strand_folder):
    alarms = real_images.false_alarms(strand_folder, judged(["I1", "I0"]))
    assert alarms["image_id"].tolist() == ["I1", "I0"], "in the order of the list"
    strand, flat = alarms.to_dict("records")
    # the line covers 2 or 3 x 161 of the lesion's 256 x 128 pixels; a rim and ends may be added
    assert 2 * 150 / (256 * 128) < strand["inside"] < 8 * 175 / (256 * 128)
    assert strand["outside"] == flat["inside"] == flat["outside"] == 0
    assert strand["inside_two_scales"] >= strand["inside"]
    assert flat["inside_two_scales"] == flat["outside_two_scales"] == 0


def test_an_image_that_is_not_there_is_named(strand_folder):
    with pytest.raises(ValueError, match="1 of the 2 judged images .* the first I9"):
        real_images.false_alarms(strand_folder, judged(["I0", "I9"]))


def test_an_image_without_a_mask_is_named(strand_folder):
    with pytest.raises(ValueError, match="not there with a mask, the first I2"):
        real_images.false_alarms(strand_folder, judged(["I2"]))


def test_each_step_alone_is_what_the_pipeline_does():
    image = np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    alone = real_images.steps_alone()
    assert list(alone) == list(real_images.STEPS)
    np.testing.assert_array_equal(alone[real_images.START](image), image)
    for name in real_images.STEPS[1:]:
        settings = ablation.settings_of((name,))
        expected = pipeline.preprocess_image(image, settings)
        np.testing.assert_array_equal(alone[name](image), expected, err_msg=name)


def test_a_histogram_counts_each_channel_of_each_image(strand_folder):
    images = real_images.list_images(strand_folder)
    assert images["image_id"].tolist() == ["I0", "I1"], "I2 has no mask"
    for path in images["path"]:
        cv2.imwrite(str(strand_folder / path), np.full((256, 256, 3), 100, np.uint8))
    channels, histograms = real_images.color_scores(strand_folder, images)
    start = histograms[histograms["step"] == real_images.START]
    full = start[start["share"] > 0]
    assert full["low"].tolist() == [100] * 3 and full["share"].tolist() == [1.0] * 3
    start = channels[channels["step"] == real_images.START]
    assert start[["mean_red", "variance_blue"]].to_numpy().tolist() == [[100, 0], [100, 0]]


def test_a_class_with_too_few_lesions_is_named(strand_folder):
    with pytest.raises(ValueError, match="0 lesions of class bcc .* expected at least 100"):
        real_images.draw_sample(strand_folder)


# ----------------------------------------------------------------------------------- what they say


def test_an_interval_leaves_out_what_is_missing(few_draws):
    rows = pd.DataFrame({"lesion_id": ["L0", "L1", "L2"], "dx": "nv"})
    values = pd.DataFrame({"some": [0.2, 0.4, np.nan], "all": [0.2, 0.4, 0.9]})
    intervals = real_images.mean_intervals(values, rows)
    assert intervals["some"] == pytest.approx({"value": 0.3, "low": 0.2, "high": 0.4})
    assert intervals["all"]["value"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="some: none of 3 images has a value"):
        real_images.mean_intervals(values * np.nan, rows)


def test_images_of_one_lesion_are_drawn_together(few_draws):
    rows = pd.DataFrame({"lesion_id": "L0", "dx": "nv"}, index=range(2))
    intervals = real_images.mean_intervals(pd.DataFrame({"share": [0.2, 0.4]}), rows)
    assert intervals["share"] == pytest.approx({"value": 0.3, "low": 0.3, "high": 0.3})


def test_what_is_left_is_a_share_of_the_image_s_own_variance(few_draws):
    """Noise of deviation 4 and 8, halved by a median and quartered by a mean filter."""
    rows = []
    for image, noise in (("I0", 4.0), ("I1", 8.0)):
        for method in real_images.METHODS:
            factor = {"nothing": 1, "median": 1 / 2, "mean": 1 / 4}[method.split()[0]]
            rows.append((image, f"L{image}", "nv", method, factor * noise, factor * 3.0))
    noise = pd.DataFrame(rows, columns=list(real_images.NOISE_SCHEMA.columns))
    scores = real_images.summarise_noise(noise)
    median, mean = scores["filters"]["median 3"], scores["filters"]["mean 3"]
    assert scores["filters"]["nothing"]["variance"]["value"] == (16 + 64) / 2
    assert median["variance_left"]["value"] == 1 / 4 and mean["variance_left"]["value"] == 1 / 16
    assert median["border_left"]["value"] == 1 / 2
    difference = scores["median_minus_mean"]["5"]
    assert difference["variance_left"]["value"] == 3 / 16
    assert difference["border_left"] == {"value": 0.25, "low": 0.25, "high": 0.25}


# ------------------------------------------------------------------------------------ a whole run


@pytest.fixture
def small(monkeypatch, tmp_path, data_folder, few_draws):
    """A run on synthetic lesions whose result goes into a folder of its own."""
    monkeypatch.setattr(real_images, "IMAGES_PER_CLASS", 3)
    monkeypatch.setattr(real_images, "RESULTS", tmp_path / "results")
    images = real_images.list_images(data_folder).groupby("dx").head(6)
    verdicts = images.groupby("dx").cumcount() % 5
    chosen = judged(images["image_id"].tolist(), [real_images.VERDICTS[i] for i in verdicts])
    tables.write_table(chosen, real_images.RESULTS / "hairless.csv")
    return data_folder


def test_a_small_run_writes_files_that_agree(small):
    written = real_images.measure(small)
    files = {file.name for file in real_images.RESULTS.iterdir()}
    assert files == {*(file.name for file in written), "hairless.csv"}
    summary = read_summary()
    assert summary["sample"] == {"bcc": 3, "mel": 3, "nv": 3} and summary["sample_lesions"] == 9
    agrees(read_tables(), summary)


# ------------------------------------------------------------------------------ what is published


def test_the_published_numbers_follow_from_the_published_tables(published, summary):
    agrees(published, summary)
    assert summary["sample"] == {name: 100 for name in real_images.CLASSES}
    assert summary["draws"] == real_images.DRAWS


def test_every_image_that_was_judged_is_scored(published):
    alarms, chosen = published["false_alarms"], real_images.read_hairless()
    columns = ["image_id", "verdict"]
    pd.testing.assert_frame_equal(alarms[columns], chosen[columns])


def test_at_most_one_percent_of_hairless_lesions_is_changed(summary):
    groups = summary["false_alarms"]
    assert groups["fresh hairless"]["images"] == 60
    assert groups["fresh hairless"]["inside"]["value"] <= 0.01
    assert groups["hairless"]["images"] == 200
    assert groups["hairless or unsure"]["inside"]["high"] < 0.01
    assert groups["hair"]["inside"]["low"] > 3 * groups["hairless"]["inside"]["high"]


def test_the_published_histograms_are_whole(published):
    histograms = published["histograms"]
    sums = histograms.groupby(["step", "channel"])["share"].agg(["sum", "size"])
    assert len(sums) == 3 * len(real_images.STEPS) and (sums["size"] == real_images.BINS).all()
    np.testing.assert_allclose(sums["sum"], 1, atol=1e-4)


def test_the_published_files_are_small():
    for file in real_images.RESULTS.iterdir():
        assert 0 < file.stat().st_size < 200_000, file.name


# ---------------------------------------------------------------------------------- real images


def test_hair_removal_leaves_hairless_lesions_alone_and_not_those_with_hair(ham10000, published):
    chosen = real_images.read_hairless()
    without = chosen[chosen["verdict"].str.endswith("hairless")]
    with_hair = chosen[chosen["verdict"] == "hair"].head(200)
    alarms = real_images.false_alarms(ham10000, pd.concat([without, with_hair]))
    counts = alarms["verdict"].value_counts().to_dict()
    assert counts == {"hairless": 200, "fresh hairless": 60, "hair": 200}
    mean = alarms.groupby("verdict")[list(real_images.ALARM_SCORES)].mean()
    assert (mean.loc[["hairless", "fresh hairless"], "inside"] <= 0.01).all()
    assert (mean.loc["hair"] > 3 * mean.loc["hairless"]).all(), "the detector is alive"
    before = published["false_alarms"].set_index("image_id").loc[alarms["image_id"]]
    before = before.groupby("verdict")[list(real_images.ALARM_SCORES)].mean()
    pd.testing.assert_frame_equal(mean, before, check_exact=False, rtol=0, atol=1e-3)


def test_a_sample_of_the_published_noise_is_measured_again(ham10000, published):
    sample = real_images.draw_sample(ham10000)
    assert set(sample["image_id"]) == set(published["noise"]["image_id"])
    again = real_images.noise_scores(ham10000, sample.head(10))
    rows = published["noise"].set_index(["image_id", "method"])
    rows = rows.loc[again.set_index(["image_id", "method"]).index]
    names = ["noise", "border_strength"]
    np.testing.assert_allclose(again[names], rows[names], rtol=0.02)


@pytest.mark.parametrize("step", ["hair removal", "bubble removal"])
def test_the_published_colours_are_of_the_steps_as_they_are(ham10000, published, step):
    """Measured again on the ten images that the step changed most."""
    rows = published["channel_statistics"].set_index(["image_id", "step"])
    rows = rows.drop(columns=["lesion_id", "dx"])
    change = (rows.xs(step, level="step") - rows.xs(real_images.START, level="step")).abs()
    most = change["variance_red"].nlargest(10)
    assert (most > 0).all()
    images = real_images.list_images(ham10000)
    again, _ = real_images.color_scores(ham10000, images[images["image_id"].isin(most.index)])
    again = again.set_index(["image_id", "step"])[rows.columns]
    np.testing.assert_allclose(again, rows.loc[again.index], rtol=1e-3, atol=0.05)


def test_the_published_lesions_are_those_of_the_metadata(ham10000, published):
    metadata = datasets.read_metadata(ham10000).set_index("image_id")[["lesion_id", "dx"]]
    for name in ("false_alarms", "noise", "channel_statistics"):
        rows = published[name].set_index("image_id")[["lesion_id", "dx"]]
        pd.testing.assert_frame_equal(rows, metadata.loc[rows.index])


def agrees(published, summary):
    """Check `real_images.json` against the tables beside it."""
    alarms, noise, channels = (
        published[name] for name in ("false_alarms", "noise", "channel_statistics")
    )
    assert real_images.summarise_alarms(alarms) == summary["false_alarms"]
    assert real_images.summarise_noise(noise) == {
        name: summary[name] for name in ("filters", "median_minus_mean")
    }
    assert real_images.summarise_colors(channels) == summary["steps"]
    # not by the same way: means that a reader would compute
    counts = alarms["verdict"].value_counts()
    assert summary["judged"] == {name: counts.get(name, 0) for name in real_images.VERDICTS}
    mean = alarms[alarms["verdict"].isin(summary["false_alarms"])]
    mean = mean.groupby("verdict")[["inside", "outside"]].mean()
    for verdict, row in mean.iterrows():
        for name, value in row.items():
            interval = summary["false_alarms"][verdict][name]
            assert interval["value"] == pytest.approx(value, abs=1e-6)
            assert interval["low"] - 1e-6 <= value <= interval["high"] + 1e-6
    left = noise.set_index(["image_id", "method"])["noise"].unstack()
    left = (left.div(left["nothing"], axis=0) ** 2).mean()
    for method in real_images.METHODS:
        value = summary["filters"][method]["variance_left"]["value"]
        assert value == pytest.approx(left[method], abs=1e-6)
