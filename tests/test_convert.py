"""Images that users have: converted on demand, with their kinds counted, or refused by name."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from lib.data import datasets
from lib.preprocessing import decode
from tools import convert, get_dataset

PIXELS = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
COLOR = Image.fromarray(PIXELS)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def deep(values):
    """Return a PNG file of 16 bits; OpenCV wants BGR."""
    return cv2.imencode(".png", values)[1].tobytes()


def converted(data):
    png, kind = convert.to_rgb(data)
    pixels, _, fault, _ = decode.decode(png)
    assert not fault
    return pixels, kind


@pytest.mark.parametrize(
    ("kind", "options"),
    [("WEBP", {"lossless": True}), ("TIFF", {}), ("BMP", {}), ("PNG", {})],
)
def test_other_formats_keep_every_pixel(kind, options):
    pixels, found = converted(saved(COLOR, kind, **options))
    np.testing.assert_array_equal(pixels, PIXELS)
    assert found == f"RGB {kind}"


def test_grey_becomes_three_equal_channels():
    grey = COLOR.convert("L")
    pixels, kind = converted(saved(grey, "PNG"))
    np.testing.assert_array_equal(pixels, np.array(grey)[..., None].repeat(3, axis=2))
    assert kind == "grey PNG"
    assert converted(saved(grey, "JPEG"))[1] == "grey JPEG"


def test_a_palette_is_replaced_by_its_colours():
    palette = COLOR.quantize(16)
    pixels, kind = converted(saved(palette, "PNG"))
    np.testing.assert_array_equal(pixels, np.array(palette.convert("RGB")))
    assert kind == "palette PNG"


def test_what_is_transparent_shows_white():
    image = COLOR.copy()
    image.putalpha(Image.fromarray(np.full((40, 50), 0, np.uint8)))
    image.paste((10, 20, 30, 255), (0, 0, 25, 40))
    pixels, kind = converted(saved(image, "PNG"))
    assert kind == "RGB with transparency PNG"
    assert (pixels[:, :25] == (10, 20, 30)).all() and (pixels[:, 25:] == 255).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_scaled(channels):
    full = np.full((40, 50, channels), 65535, np.uint16)
    full[..., 0] = 257 * 100  # blue, or grey
    pixels, kind = converted(deep(full))
    assert kind == "16-bit PNG"
    assert tuple(pixels[0, 0]) == ((100, 100, 100) if channels == 1 else (255, 255, 100))


def test_several_pages_are_refused():
    data = saved(COLOR, "TIFF", save_all=True, append_images=[COLOR])
    with pytest.raises(ValueError, match="2 pages; expected one"):
        convert.to_rgb(data)


@pytest.mark.parametrize(
    "data", [b"", b"no image", saved(COLOR, "TIFF")[:200]], ids=["empty", "text", "cut"]
)
def test_what_is_no_image_is_one_clear_error(data):
    with pytest.raises(ValueError, match=r"\w+"):
        convert.to_rgb(data)


# -------------------------------------------------------------------------------------- make data


@pytest.fixture
def bring(tmp_path, monkeypatch, write_folder):
    """Return a function that imports a folder with files in place of its images."""
    monkeypatch.setattr(get_dataset, "DATA", tmp_path / "data")

    def bring_files(files, *options, name="set"):
        folder = write_folder([(f"I{i}", f"L{i}", "nv") for i in range(len(files) + 1)], name)
        for i, (suffix, data) in enumerate(files):
            (folder / "images" / f"I{i}.jpg").unlink()
            (folder / "images" / f"I{i}{suffix}").write_bytes(data)
        COLOR.save(folder / "images" / f"I{len(files)}.jpg")
        return get_dataset.main(["--from", str(folder), *options])

    return bring_files


RAMP = np.arange(50, dtype=np.uint16)[:, None] * np.full((40, 50, 3), 999, np.uint16)
MESSY = [
    (".jpg", saved(COLOR.convert("L"), "JPEG")),
    (".png", saved(COLOR.convert("L"), "PNG")),
    (".png", saved(COLOR.convert("RGBA"), "PNG")),
    (".png", saved(COLOR.quantize(16), "PNG")),
    (".png", deep(RAMP)),
    (".webp", saved(COLOR, "WEBP")),
    (".TIF", saved(COLOR, "TIFF")),
    (".bmp", saved(COLOR, "BMP")),
    (".png", saved(COLOR, "PNG")),
]


def test_images_are_converted_and_counted(bring, tmp_path, capsys):
    assert bring(MESSY, "--convert") == 0
    folder = tmp_path / "data" / "ham10000"
    files = datasets.find_images(folder, [f"I{i}" for i in range(10)])
    assert len(files) == 10
    assert all(decode.read_image(folder / file).shape == (40, 50, 3) for file in files)
    assert files["I8"] == "images/I8.png" and (folder / files["I8"]).is_symlink(), "as it was"
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("converted"))
    for kind in ("1 grey JPEG", "1 16-bit PNG", "1 RGB WEBP", "1 RGB TIFF", "1 palette PNG"):
        assert kind in line
    originals = sorted(file.suffix for file in (tmp_path / "set" / "images").iterdir())
    assert originals == [".TIF", ".bmp", *2 * [".jpg"], *5 * [".png"], ".webp"]


def test_without_the_option_the_refusal_names_it(bring, capsys):
    assert bring(MESSY[:2], name="grey") == 1
    error = capsys.readouterr().err
    assert "mode L" in error and "CONVERT=1 converts them" in error
    assert bring(MESSY[5:7], name="formats") == 1
    error = capsys.readouterr().err
    assert "images in formats other than JPEG and PNG: 1 .webp, 1 .TIF, the first: I0" in error
    assert "CONVERT=1 converts them" in error


@pytest.mark.parametrize(("suffix", "name"), [(".heic", "HEIC"), (".DCM", "DICOM")])
@pytest.mark.parametrize("options", [[], ["--convert"]])
def test_what_cannot_be_converted_is_called_by_its_name(bring, capsys, suffix, name, options):
    assert bring([(suffix, b"contents")], *options) == 1
    error = capsys.readouterr().err
    assert f"1 images are {name}, which is not read here, the first: I0{suffix}" in error


@pytest.mark.parametrize("options", [[], ["--convert"]])
def test_another_format_beside_a_jpeg_is_not_needed(tmp_path, monkeypatch, write_folder, options):
    monkeypatch.setattr(get_dataset, "DATA", tmp_path / "data")
    folder = write_folder([("I0", "L0", "nv"), ("I1", "L1", "nv")])
    for name in ("I0", "I1"):
        COLOR.save(folder / "images" / f"{name}.jpg")
    COLOR.save(folder / "images" / "I0.tif")
    assert get_dataset.main(["--from", str(folder), *options]) == 0
    files = datasets.find_images(tmp_path / "data" / "ham10000", ["I0", "I1"])
    assert list(files) == ["images/I0.jpg", "images/I1.jpg"]


def test_a_damaged_image_is_not_converted(bring, capsys):
    assert bring([(".png", saved(COLOR.convert("L"), "PNG")[:150])], "--convert") == 1
    assert "mode L" in capsys.readouterr().err


def test_only_a_copy_is_converted(capsys):
    assert get_dataset.main(["--convert"]) == 1
    assert "CONVERT and FAULTY need FROM" in capsys.readouterr().err
