"""The array of a run's images: streamed, resumable, made again when an image has changed."""

import collections
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import paths, source_code
from lib.data import datasets
from lib.preprocessing import image_array, pipeline

OFF = {
    "remove_hair": False,
    "remove_bubbles": False,
    "median_kernel": 0,
    "color_constancy": False,
    "equalize_contrast": False,
}

#: Runs in a process of its own: configuration, index and folder are its arguments.
PREAMBLE = """
import os, sys, time
from pathlib import Path
import numpy as np, pandas as pd
from lib.preprocessing import image_array, pipeline
from lib.config import Config
run = Config.model_validate_json(sys.argv[1])
index, folder = pd.read_csv(sys.argv[2]), Path(sys.argv[3])
"""


def with_settings(run, **changes):
    settings = run.preprocessing.model_copy(update=changes)
    return run.model_copy(update={"preprocessing": settings})


@pytest.fixture
def plain(run):
    """The tiny run with every step but crop and resize off: a millisecond an image."""
    return with_settings(run, **OFF)


@pytest.fixture
def whole_index(run, data_folder):
    metadata = datasets.read_metadata(data_folder)
    files = datasets.find_images(data_folder, metadata["image_id"])
    groups = metadata.set_index("image_id")["lesion_id"]
    return datasets.build_index(metadata, files, groups, run)


@pytest.fixture
def index(whole_index):
    return whole_index.head(6)


@pytest.fixture
def draw(tmp_path):
    """Write `n` small images that all differ, and return their index and folder."""

    def draw_images(n):
        folder = tmp_path / f"{n}_images"
        folder.mkdir()
        names = [f"image_{i:05d}" for i in range(n)]
        for i, name in enumerate(names):
            image = np.zeros((36, 48, 3), np.uint8)
            image[:] = (i % 256, i // 256, 90)
            cv2.imwrite(str(folder / f"{name}.png"), image)
        return pd.DataFrame({"image_id": names, "path": [f"{name}.png" for name in names]}), folder

    return draw_images


@pytest.fixture
def two_at_a_time(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(image_array, "CHUNK_BYTES", 1)


def array_file(run):
    return paths.run_folder(run.name) / "images.npy"


def partial_file(run):
    return paths.temporary(array_file(run))


def unbroken(index, folder, run, monkeypatch, tmp_path):
    """The bytes of images.npy, made elsewhere and at one go."""
    with monkeypatch.context() as patch:
        patch.setenv("SKIN_OUTPUT", str(tmp_path / "unbroken"))
        assert image_array.write_images(index, folder, run) == len(index)
        return array_file(run).read_bytes()


def break_off(index, folder, run):
    """Make all rows but the last two, then fail; return nothing."""
    prepare, last = pipeline.prepare, folder / index["path"].iloc[-1]

    def fail(file, settings):
        if file == last:
            raise ValueError(f"{file.name}: fails")
        return prepare(file, settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "prepare", fail)
        with pytest.raises(ValueError, match="fails"):
            image_array.write_images(index, folder, run)


# ------------------------------------------------------------------------------------- the array


def test_training_evaluation_and_prediction_see_identical_pixels(run, whole_index, data_folder):
    """Each row is every step, one after the other, of the file's pixels; so is `prepare`."""
    sides = whole_index.groupby("split").head(2).reset_index(drop=True)
    assert set(sides["split"]) == {"train", "validation", "test"}
    assert image_array.write_images(sides, data_folder, run) == len(sides)
    images = image_array.open_images(sides, run)
    assert images.shape == (len(sides), 256, 256, 3)
    for row, path in zip(images, sides["path"], strict=True):
        by_hand = cv2.cvtColor(cv2.imread(str(data_folder / path)), cv2.COLOR_BGR2RGB)
        for step in pipeline.enabled_steps(run.preprocessing).values():
            by_hand = step(by_hand)
        np.testing.assert_array_equal(row, by_hand)
        np.testing.assert_array_equal(row, pipeline.prepare(data_folder / path, run.preprocessing))


@pytest.mark.parametrize("number", ["03", "04", "05", "06"])
def test_the_notebooks_of_the_models_take_images_from_the_array_alone(number):
    (file,) = (paths.ROOT / "notebooks").glob(f"{number}_*.ipynb")
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"read_image|imread|imdecode|preprocess_image", text)


def test_an_array_made_with_other_settings_is_refused(run, index, data_folder):
    image_array.write_images(index, data_folder, run)
    with pytest.raises(ValueError, match="made with other preprocessing"):
        image_array.open_images(index, with_settings(run, remove_hair=False))
    with pytest.raises(ValueError, match="made with other image_ids_sha256"):
        image_array.open_images(index.iloc[::-1], run)
    with pytest.raises(ValueError, match="made with other shape"):
        image_array.open_images(index.head(5), run)


def test_the_array_is_what_numpy_saves(plain, draw, tmp_path):
    index, folder = draw(5)
    image_array.write_images(index, folder, plain)
    np.save(tmp_path / "saved.npy", image_array.open_images(index, plain))
    assert (tmp_path / "saved.npy").read_bytes() == array_file(plain).read_bytes()


def test_the_array_does_not_depend_on_the_number_of_cores(
    run, index, data_folder, monkeypatch, tmp_path
):
    made = []
    for cores in (1, 3):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        made.append(unbroken(index, data_folder, run, monkeypatch, tmp_path / str(cores)))
    assert made[0] == made[1]


def test_opencv_has_its_threads_back(plain, draw):
    index, folder = draw(3)
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        image_array.write_images(index, folder, plain)
        assert cv2.getNumThreads() == 3
        break_off(index, folder, with_settings(plain, median_kernel=3))
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


# -------------------------------------------------------------------------------- keyed by content


def test_the_same_images_and_settings_are_not_processed_twice(plain, draw, monkeypatch):
    index, folder = draw(40)
    image_array.write_images(index, folder, plain)
    before = {file: file.stat() for file in array_file(plain).parent.iterdir()}
    assert {file.name for file in before} == {"images.npy", "images.json"}
    monkeypatch.setattr(pipeline, "preprocess_image", None)
    assert image_array.write_images(index, folder, plain) == 0
    after = {file: file.stat() for file in array_file(plain).parent.iterdir()}
    assert {f: (s.st_ino, s.st_mtime_ns) for f, s in before.items()} == {
        f: (s.st_ino, s.st_mtime_ns) for f, s in after.items()
    }


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 257},
        {"remove_hair": True, "thick_hair": True},
        *({s.setting: s.example} for s in pipeline.STEPS.values() if s.setting != "image_size"),
    ],
    ids=lambda change: list(change)[-1],
)
def test_one_changed_setting_processes_every_image(plain, draw, change):
    index, folder = draw(4)
    image_array.write_images(index, folder, plain)
    changed = with_settings(plain, **change)
    assert image_array.write_images(index, folder, changed) == 4
    assert image_array.open_images(index, changed).shape[1] == changed.preprocessing.image_size


def test_other_code_or_another_opencv_processes_every_image(plain, draw, monkeypatch):
    index, folder = draw(4)
    image_array.write_images(index, folder, plain)
    monkeypatch.setattr(cv2, "__version__", "0.0")
    assert image_array.write_images(index, folder, plain) == 4
    file, source = "lib/preprocessing/pipeline.py", Path(pipeline.__file__).read_text("utf-8")

    def edit(text):
        """Stand in for a pipeline.py whose contents have changed."""
        trees = image_array._SOURCES | {file: source_code.syntax_tree(text)}
        monkeypatch.setattr(image_array.stages, "code_of", lambda stage: trees)
        return trees

    edit(source + "# another comment\n")
    image_array.write_images(index, folder, plain)
    changed = edit(source + "another = 1\n")
    with pytest.raises(ValueError, match=r"pipeline\.py was changed after it was imported"):
        image_array.write_images(index, folder, plain)
    monkeypatch.setattr(image_array, "_SOURCES", changed)
    with pytest.raises(ValueError, match="made with other code"):
        image_array.open_images(index, plain)
    assert image_array.write_images(index, folder, plain) == 4
    assert image_array.write_images(index, folder, plain) == 0


def test_one_changed_image_makes_the_array_again(plain, draw):
    index, folder = draw(40)
    image_array.write_images(index, folder, plain)
    before = np.array(image_array.open_images(index, plain))
    cv2.imwrite(str(folder / index["path"].iloc[33]), np.full((36, 48, 3), 7, np.uint8))
    assert image_array.write_images(index, folder, plain) == 40
    differs = (before != image_array.open_images(index, plain)).any(axis=(1, 2, 3))
    assert np.flatnonzero(differs).tolist() == [33]


def test_images_in_another_order_are_made_again(plain, draw):
    index, folder = draw(6)
    image_array.write_images(index, folder, plain)
    before = np.array(image_array.open_images(index, plain))
    backwards = index.iloc[::-1]
    assert image_array.write_images(backwards, folder, plain) == 6
    np.testing.assert_array_equal(image_array.open_images(backwards, plain)[::-1], before)


def test_an_array_without_a_note_or_with_a_damaged_one_is_made_again(plain, draw, capsys):
    index, folder = draw(4)
    note = array_file(plain).with_suffix(".json")
    for damage in (note.unlink, lambda: note.write_text("{")):
        image_array.write_images(index, folder, plain)
        damage()
        assert image_array.write_images(index, folder, plain) == 4
        image_array.open_images(index, plain)
    assert "images.json: damaged, so images.npy is made again" in capsys.readouterr().out


# ------------------------------------------------------------------------------------- resumable


def test_a_run_that_is_killed_goes_on_and_ends_the_same(plain, draw, monkeypatch, tmp_path):
    index, folder = draw(60)
    expected = unbroken(index, folder, plain, monkeypatch, tmp_path)
    index.to_csv(tmp_path / "index.csv", index=False)
    code = """
quick = pipeline.preprocess_image
def slow(image, settings):
    time.sleep(0.05)
    return quick(image, settings)
pipeline.preprocess_image, image_array.CHUNK_BYTES, os.cpu_count = slow, 1, lambda: 2
image_array.write_images(index, folder, run)
"""
    arguments = [plain.model_dump_json(), tmp_path / "index.csv", folder]
    command = [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)]
    note = partial_file(plain).with_suffix(".json")

    def count_done():
        return json.loads(note.read_text(encoding="utf-8"))["done"] if note.exists() else 0

    with subprocess.Popen(command, cwd=paths.ROOT) as process:
        while count_done() < 20:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    done = count_done()
    assert 20 <= done < 60
    assert not array_file(plain).exists()
    assert image_array.write_images(index, folder, plain) == 60 - done
    assert array_file(plain).read_bytes() == expected
    assert not note.exists() and not partial_file(plain).exists()


class Killed(BaseException):
    """Stands for a kill: nothing in lib may catch it."""


@pytest.mark.usefixtures("two_at_a_time")
@pytest.mark.parametrize("notes", [0, 1, 2, 3])
def test_a_kill_after_any_chunk_costs_that_chunk_at_most(plain, draw, monkeypatch, tmp_path, notes):
    """Over an attempt with other settings, whose note must not vouch for the new rows."""
    index, folder = draw(6)
    expected = unbroken(index, folder, plain, monkeypatch, tmp_path)
    break_off(index, folder, with_settings(plain, median_kernel=3))
    write, left = paths.write_text, notes

    def write_until_killed(*arguments):
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(paths, "write_text", write_until_killed)
        if notes < 3:
            with pytest.raises(Killed):
                image_array.write_images(index, folder, plain)
            assert not array_file(plain).exists()
    assert image_array.write_images(index, folder, plain) == (6 if notes == 3 else 6 - 2 * notes)
    assert array_file(plain).read_bytes() == expected


@pytest.mark.parametrize("renamed", [0, 1], ids=["before the array", "before the note"])
def test_a_kill_while_files_get_their_names_leaves_no_array_that_could_be_opened(
    plain, draw, monkeypatch, tmp_path, renamed
):
    index, folder = draw(6)
    expected = unbroken(index, folder, plain, monkeypatch, tmp_path)
    image_array.write_images(index, folder, with_settings(plain, median_kernel=3))
    replace, ends = os.replace, (array_file(plain), array_file(plain).with_suffix(".json"))

    def replace_until_killed(source, target):
        if target == ends[renamed]:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_until_killed)
        with pytest.raises(Killed):
            image_array.write_images(index, folder, plain)
    with pytest.raises(FileNotFoundError, match=r"images\.(npy|json): no such file; run notebook"):
        image_array.open_images(index, plain)
    image_array.write_images(index, folder, plain)
    image_array.open_images(index, plain)
    assert array_file(plain).read_bytes() == expected


def test_a_missing_image_is_refused_before_the_work(plain, draw, monkeypatch):
    index, folder = draw(3)
    (folder / index["path"].iloc[2]).unlink()
    monkeypatch.setattr(pipeline, "preprocess_image", None)
    with pytest.raises(FileNotFoundError, match=r"image_00002\.png: no such image"):
        image_array.write_images(index, folder, plain)


@pytest.mark.usefixtures("two_at_a_time")
def test_a_broken_image_leaves_no_array_behind_and_what_was_done_stays(run, index, data_folder):
    broken = index.assign(path=[*index["path"].iloc[:-1], "README.md"])
    with pytest.raises(ValueError, match=r"README\.md: not an image"):
        image_array.write_images(broken, data_folder, run)
    assert not array_file(run).exists()
    with pytest.raises(FileNotFoundError, match="run notebook 02"):
        image_array.open_images(index, run)
    assert image_array.write_images(index, data_folder, run) == 6, "other files"


@pytest.mark.usefixtures("two_at_a_time")
@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("share", [0, 0.00001, 0.5], ids=["empty", "header", "half"])
def test_a_partial_array_that_is_cut_short_is_started_over(
    plain, draw, monkeypatch, tmp_path, suffix, share
):
    index, folder = draw(6)
    expected = unbroken(index, folder, plain, monkeypatch, tmp_path)
    break_off(index, folder, plain)
    torn = partial_file(plain).with_suffix(suffix)
    os.truncate(torn, int(torn.stat().st_size * share))
    assert image_array.write_images(index, folder, plain) == 6
    assert array_file(plain).read_bytes() == expected


def test_an_array_that_is_cut_short_is_made_again(plain, draw, capsys):
    index, folder = draw(6)
    image_array.write_images(index, folder, plain)
    expected = array_file(plain).read_bytes()
    os.truncate(array_file(plain), len(expected) - 1)
    assert image_array.write_images(index, folder, plain) == 6
    assert "tiny/images.npy was cut short; it is made again" in capsys.readouterr().out
    assert array_file(plain).read_bytes() == expected


@pytest.mark.usefixtures("two_at_a_time")
def test_an_attempt_at_another_index_is_not_taken_for_this_one(plain, draw, monkeypatch, tmp_path):
    index, folder = draw(6)
    expected = unbroken(index.head(5), folder, plain, monkeypatch, tmp_path)
    break_off(index, folder, plain)
    image_array.write_images(index.head(5), folder, plain)
    assert array_file(plain).read_bytes() == expected


# ------------------------------------------------------------------------------ memory, disk, bar


def test_memory_does_not_grow_with_the_number_of_images(plain, draw, tmp_path):
    """Peak memory of 3,000 rows (590 MB) against that of 300, in a process of their own."""
    index, folder = draw(3000)
    index.to_csv(tmp_path / "index.csv", index=False)
    code = """
import json, resource
def peak():  # MiB
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if "VmHWM" in line) / 1024
    except FileNotFoundError:  # macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
peaks = []
for n in (300, 3000):
    counts = image_array.write_images(index.head(n), folder, run)
    peaks.append(peak())
size = len(image_array.open_images(index, run))
ballast = np.ones(200 * 2**20, np.uint8)
print(json.dumps([*peaks, peak(), size, counts]))
"""
    arguments = [plain.model_dump_json(), tmp_path / "index.csv", folder]
    command = [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    small, large, with_ballast, size, counts = json.loads(done.stdout)
    shutil.rmtree(array_file(plain).parent)
    assert size == counts == 3000
    assert large - small < 100
    assert with_ballast - large > 100  # it is measured at all
    assert done.stderr == ""


def test_a_disk_that_is_too_full_is_refused_before_the_work(plain, draw, monkeypatch):
    index, folder = draw(6)
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    monkeypatch.setattr(pipeline, "preprocess_image", None)
    with pytest.raises(OSError, match=r"runs/tiny: images\.npy needs 1\.18MB more; 1\.00MB are"):
        image_array.write_images(index, folder, plain)
    assert not array_file(plain).exists()


@pytest.mark.usefixtures("two_at_a_time")
def test_rows_that_are_there_need_no_space(plain, draw, monkeypatch):
    index, folder = draw(6)
    break_off(index, folder, plain)
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    assert image_array.write_images(index, folder, plain) == 2


def test_a_bar_is_drawn_in_a_terminal_only(plain, draw, capfd):
    index, folder = draw(3)
    image_array.write_images(index, folder, plain)
    assert capfd.readouterr() == ("", "")
