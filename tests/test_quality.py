"""Every image is opened; what is wrong with it is named; nothing is dropped unsaid."""

import json

import cv2
import numpy as np
import pytest

from lib.data import datasets, quality


@pytest.fixture
def folder(write_folder):
    folder = write_folder([(f"I{i}", f"L{i}", "nv" if i % 2 else "mel") for i in range(10)])
    half = np.full((36, 48, 3), 200, np.uint8)
    half[:, 24:] = 90
    for i in range(10):
        cv2.imwrite(str(folder / "images" / f"I{i}.jpg"), half + i)
    return folder


def inspected(folder):
    metadata = datasets.read_metadata(folder)
    return metadata, quality.inspect(folder, metadata)


def test_good_images_have_no_problem(folder):
    _, table = inspected(folder)
    assert (table["problem"] == "").all()
    assert set(table["width"]) == {48}
    assert set(table["height"]) == {36}


def test_a_link_to_nowhere_is_missing(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    assert quality.inspect_image(tmp_path / "a.jpg")[2] == "missing"


def test_a_missing_image_is_counted_by_reason_and_class(folder, run):
    (folder / "images" / "I0.jpg").unlink()
    (folder / "images" / "I1.jpg").write_bytes(b"broken")
    (folder / "images" / "stray.jpg").write_bytes((folder / "images" / "I2.jpg").read_bytes())
    metadata, table = inspected(folder)
    treated = quality.treatments(table, folder)
    unlisted = datasets.unlisted_files(folder, metadata["image_id"])
    found = quality.report(table, treated, unlisted, run)
    assert found["problems"] == {"missing": {"mel": 1}, "unreadable": {"nv": 1}}
    assert [found[name] for name in quality.TREATMENTS] == [8, 0, 0, 2]
    assert [image["treatment"] for image in found["images"]] == ["refused"] * 2 + ["read"] * 8
    assert found["images"][0] == {
        "image_id": "I0",
        "path": "",
        "treatment": "refused",
        "why": "missing: no file; files without a row: images/stray.jpg",
    }
    assert found["files_without_a_row"] == 1
    assert found["examples_without_a_row"] == ["images/stray.jpg"]
    assert json.loads(json.dumps(found)) == found


def test_of_many_images_those_that_were_simply_read_are_only_counted(folder, run, monkeypatch):
    monkeypatch.setattr(quality, "LISTED", 9)
    (folder / "images" / "I4.jpg").unlink()
    _, table = inspected(folder)
    report = quality.report(table, quality.treatments(table, folder), [], run)
    assert report["read"] == 9
    assert [image["image_id"] for image in report["images"]] == ["I4"]


def test_a_list_that_is_cut_off_begins_with_the_refused_images(folder, run, monkeypatch):
    monkeypatch.setattr(quality, "LISTED", 3)
    (folder / "images" / "I9.jpg").unlink()
    _, table = inspected(folder)
    treated = quality.treatments(table, folder)
    treated.loc[:5, "treatment"] = "converted"
    report = quality.report(table, treated, [], run)
    assert [image["image_id"] for image in report["images"]] == ["I9", "I0", "I1"]


def test_more_than_the_share_allowed_stops_the_run_with_every_reason(folder, run):
    (folder / "images" / "I0.jpg").unlink()
    (folder / "images" / "I3.jpg").write_bytes(b"broken")
    metadata, table = inspected(folder)
    with pytest.raises(ValueError, match="2 of 10 images cannot be used") as error:
        quality.usable(metadata, table, run)
    said = str(error.value)
    assert "more than data.max_dropped = 0.01 allows" in said
    assert "missing (no JPEG or PNG file; make data FROM=... CONVERT=1 converts other" in said
    assert "formats): 1, the first: I0, no file" in said
    assert (
        "unreadable (not an image in JPEG or PNG format, or damaged): 1, the first: images/I3.jpg"
        in said
    )


def test_the_configuration_may_allow_more(folder, run):
    (folder / "images" / "I0.jpg").unlink()
    metadata, table = inspected(folder)
    data = run.data.model_copy(update={"max_dropped": 0.1})
    kept = quality.usable(metadata, table, run.model_copy(update={"data": data}))
    assert list(kept["image_id"]) == [f"I{i}" for i in range(1, 10)]


def test_masks_without_a_row_are_files_without_a_row(folder):
    (folder / "I99_segmentation.png").write_bytes(b"")
    (folder / "I1_segmentation.png").write_bytes(b"")
    assert datasets.unlisted_files(folder, ["I1", *(f"I{i}" for i in range(10))]) == [
        "I99_segmentation.png"
    ]


def test_the_truth_of_synthetic_images_is_no_stray_file(data_folder):
    metadata = datasets.read_metadata(data_folder)
    assert datasets.unlisted_files(data_folder, metadata["image_id"]) == []
