"""The benchmarks run on a few images and say what they promise; speed itself is not tested."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from benchmarks import preprocessing as benchmark
from lib import datasets, paths, tables


@pytest.mark.parametrize("shape", [(224, 224), (450, 600), (300, 400), (900, 1000), (451, 601)])
def test_every_image_becomes_600_by_450(shape):
    image = np.full((*shape, 3), 77, np.uint8)
    covered = benchmark.cover(image)
    assert covered.shape == (450, 600, 3)
    assert (covered == 77).all()


def test_the_middle_is_kept_and_a_circle_stays_one():
    image = np.zeros((224, 224, 3), np.uint8)
    cv2.circle(image, (112, 112), 40, (255, 255, 255), -1)
    y, x = np.nonzero(benchmark.cover(image)[..., 0] > 127)
    assert (x.mean(), y.mean()) == pytest.approx((300, 225), abs=2)
    assert np.ptp(x) == pytest.approx(np.ptp(y), abs=2)


def test_images_are_written_once_and_spread_over_the_folder(data_folder, tmp_path):
    files = benchmark.write_images(data_folder, tmp_path, 6)
    assert len(set(files)) == 6
    assert {datasets.read_image(file).shape for file in files} == {(450, 600, 3)}
    names = datasets.read_metadata(data_folder)["image_id"].sort_values()
    assert [files[0].stem, files[-1].stem] == [names.iloc[0], names.iloc[-1]]
    assert len(benchmark.write_images(data_folder, tmp_path, 10_000)) == len(names)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder of the test's own for what is published."""
    monkeypatch.setattr(benchmark, "PUBLISHED", tmp_path / "published")
    return benchmark.PUBLISHED


def test_the_preprocessing_benchmark_writes_what_its_schema_says(data_folder, published, capsys):
    threads = cv2.getNumThreads()
    command = [str(data_folder), "--images", "6", "--rounds", "2"]
    assert benchmark.main(command) == 0
    assert cv2.getNumThreads() == threads
    file = published / "benchmark.csv"
    table = tables.read_table(file, benchmark.SCHEMA)
    assert (table["images"] == 6).all()
    assert set(table["round"]) == {1, 2}
    ways = table[["what", "cores"]].drop_duplicates()
    assert len(table) == 2 * len(ways)
    steps = ["crop and resize", "hair removal", "bubble removal", "median filter"]
    for what in [benchmark.DECODING, benchmark.CONFIGURED, benchmark.REMOVALS, *steps]:
        assert set(ways.loc[ways["what"] == what, "cores"]) == {"one core", "all cores"}
    assert ways.loc[ways["what"] == benchmark.TEXTBOOK, "cores"].tolist() == ["plain loop"]

    said = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert said["opencv"] == cv2.__version__
    assert len(said["images_per_second"]) == len(ways)
    ratio = said["times_the_textbook_loop"]["all cores"]
    assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
    assert f"{ratio['value']:.2f} ({ratio['low']:.2f} to" in capsys.readouterr().out
    part = paths.read_part(published / "README.md", benchmark.MARKS)
    assert f"{ratio['value']:.2f} ({ratio['low']:.2f} to" in part
    assert part == benchmark.describe(said)


def test_the_ratio_is_taken_round_by_round():
    seconds = {
        (benchmark.REMOVALS, "all cores"): (1, 2, 4),
        (benchmark.REMOVALS, "one core"): (2, 4, 8),
        (benchmark.TEXTBOOK, "plain loop"): (6, 14, 20),
        (benchmark.DECODING, "one core"): (1, 1, 1),
    }
    table = pd.DataFrame(
        [
            (what, cores, i + 1, 10, value, 10 / value)
            for (what, cores), values in seconds.items()
            for i, value in enumerate(values)
        ],
        columns=list(benchmark.SCHEMA.columns),
    )
    said = benchmark.summarise(table)
    assert said["times_the_textbook_loop"]["all cores"] == {"value": 6, "low": 5, "high": 7}
    assert said["times_the_textbook_loop"]["one core"] == {"value": 3, "low": 2.5, "high": 3.5}
    assert said["decoding_share"] == 0.25  # 1/2, 1/4 and 1/8 of the time
    first = said["images_per_second"][0]
    assert first == {
        "what": benchmark.REMOVALS,
        "cores": "all cores",
        "value": 5,
        "low": 2.5,
        "high": 10,
    }


def test_the_published_benchmark_is_of_500_images_and_the_readme_says_what_it_says():
    table = tables.read_table(benchmark.PUBLISHED / "benchmark.csv", benchmark.SCHEMA)
    assert (table["images"] == 500).all()
    said = json.loads((benchmark.PUBLISHED / "benchmark.json").read_text(encoding="utf-8"))
    again = benchmark.summarise(table)["times_the_textbook_loop"][benchmark.ALL]
    assert again["value"] == pytest.approx(
        said["times_the_textbook_loop"][benchmark.ALL]["value"], abs=0.01
    )
    readme = benchmark.PUBLISHED / "README.md"
    assert paths.read_part(readme, benchmark.MARKS) == benchmark.describe(said)
    front = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    times = said["times_the_textbook_loop"][benchmark.ALL]["value"]
    assert f"on two cores {times:.1f} times the recipe in a plain loop" in front


def test_nothing_to_measure_is_an_error(data_folder, tmp_path, capsys):
    assert benchmark.main([str(data_folder), "--images", "0"]) == 1
    assert "expected at least one of each" in capsys.readouterr().err
    assert benchmark.main([str(tmp_path)]) == 1
    assert datasets.METADATA in capsys.readouterr().err
