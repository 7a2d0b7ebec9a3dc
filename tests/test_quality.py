"""Every image is opened; what is wrong with it is named; nothing is dropped unsaid."""

import json
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from lib import datasets, quality


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)


@pytest.fixture
def folder(write_folder):
    return write_folder([(f"I{i}", f"L{i}", "nv" if i % 2 else "mel") for i in range(10)])


def inspected(folder):
    metadata = datasets.read_metadata(folder)
    return metadata, quality.inspect(folder, metadata)


def look(file):
    return quality.inspect_image(file)[2]


def png_with_header(width, height):
    """Return a PNG file of a few bytes that promises an image of this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
        for c in (header, data, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_good_images_have_no_problem(folder):
    _, table = inspected(folder)
    assert (table["problem"] == "").all()
    assert set(table["width"]) == {48}
    assert set(table["height"]) == {36}


def test_jpeg_and_png_are_both_images(tmp_path, noise):
    for name in ("a.jpg", "b.png"):
        cv2.imwrite(str(tmp_path / name), noise)
        assert quality.inspect_image(tmp_path / name) == (80, 64, "", "")


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_image_is_named(tmp_path, noise, name, share):
    cv2.imwrite(str(tmp_path / name), noise)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    assert look(tmp_path / name) == "truncated"


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\xff\xd8\xff\xe0junk"])
def test_what_is_no_image_is_unreadable(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    assert look(tmp_path / "a.jpg") == "unreadable"


def test_a_damaged_png_is_unreadable(tmp_path, noise):
    cv2.imwrite(str(tmp_path / "a.png"), noise)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    assert look(tmp_path / "a.png") == "unreadable"


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16", "1", "P"])
def test_what_is_not_8_bit_rgb_has_the_wrong_mode(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (64, 64)).save(tmp_path / f"a.{suffix}")
    _, _, problem, found = quality.inspect_image(tmp_path / f"a.{suffix}")
    assert problem == "wrong mode"
    assert found == f"mode {mode}"


def test_the_size_is_that_after_the_turn_that_exif_asks_for(tmp_path, noise):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / "a.jpg", exif=turned)
    assert quality.inspect_image(tmp_path / "a.jpg") == (64, 80, "", "")
    assert datasets.read_image(tmp_path / "a.jpg").shape == (80, 64, 3)


def test_a_link_to_nowhere_is_missing(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    assert look(tmp_path / "a.jpg") == "missing"


def test_a_small_image_is_too_small(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((31, 200, 3), np.uint8))
    assert quality.inspect_image(tmp_path / "a.png") == (200, 31, "too small", "200 x 31 pixels")


@pytest.mark.parametrize("side", [20_000, 2_000_000])
def test_an_image_that_promises_too_much_is_never_decoded(tmp_path, side):
    """20,000 x 20,000 pixels are 1.2 GB once decoded; the header alone is enough to refuse."""
    (tmp_path / "a.png").write_bytes(png_with_header(side, side))
    assert look(tmp_path / "a.png") == "too large"


def test_a_missing_image_is_counted_by_reason_and_class(folder, run):
    (folder / "images" / "I0.jpg").unlink()
    (folder / "images" / "I1.jpg").write_bytes(b"broken")
    (folder / "images" / "stray.jpg").write_bytes((folder / "images" / "I2.jpg").read_bytes())
    metadata, table = inspected(folder)
    found = quality.report(table, datasets.unlisted_files(folder, metadata["image_id"]), run)
    assert found["dropped"] == {"missing": {"mel": 1}, "unreadable": {"nv": 1}}
    assert found["images_usable"] == 8
    assert found["files_without_a_row"] == 1
    assert found["examples"]["files_without_a_row"] == ["images/stray.jpg"]
    assert json.loads(quality.write_report(found, run).read_text(encoding="utf-8")) == found


def test_more_than_the_share_allowed_stops_the_run_with_every_reason(folder, run):
    (folder / "images" / "I0.jpg").unlink()
    (folder / "images" / "I3.jpg").write_bytes(b"broken")
    metadata, table = inspected(folder)
    with pytest.raises(ValueError, match="2 of 10 images cannot be used") as error:
        quality.usable(metadata, table, run)
    said = str(error.value)
    assert "more than data.max_dropped = 0.01 allows" in said
    assert "missing (a row of the metadata without a file): 1, the first: I0, no file" in said
    assert "unreadable (not a JPEG or PNG image, or damaged): 1, the first: images/I3.jpg" in said


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
