"""Images that cannot be used, or only after thought: each is refused by name, or read as it is."""

import io
import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from lib.data import quality
from lib.preprocessing import decode, hair, pipeline

NOISE = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)


def saved(pixels=NOISE, kind="JPEG", **options):
    """Return an image file as bytes."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def opencv(pixels, *options):
    return cv2.imencode(".png", pixels, options)[1].tobytes()


def png_with_header(width, height):
    """Return a PNG file of a few bytes that promises an image of this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
        for c in (header, data, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def turned(orientation=6):
    """Return an EXIF header that says how to turn the image."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture
def fault(tmp_path):
    """Say what both readers find wrong with a file: the inspection, and the one that decodes."""

    def find(data):
        file = tmp_path / "lesion.img"
        file.write_bytes(data)
        _, _, problem, found = quality.inspect_image(file)
        with pytest.raises(ValueError, match=r"^lesion\.img: .*; expected a JPEG or PNG") as error:
            decode.read_image(file)
        assert f": {found} ({problem}); expected" in str(error.value), "they say the same"
        return problem, found

    return find


@pytest.fixture
def read(tmp_path):
    """Read a file that the inspection has nothing against."""

    def read(data):
        file = tmp_path / "lesion.img"
        file.write_bytes(data)
        image = decode.read_image(file)
        assert quality.inspect_image(file) == (image.shape[1], image.shape[0], "", "")
        return image

    return read


@pytest.fixture
def read_mask(tmp_path):
    def read(data, size=None):
        file = tmp_path / "mask.png"
        file.write_bytes(data)
        return decode.read_mask(file, size)

    return read


# ------------------------------------------------------------------------------- what can be used


def test_jpeg_and_png_are_read(read):
    np.testing.assert_array_equal(read(saved(kind="PNG")), NOISE)
    assert np.abs(read(saved(quality=100, subsampling=0)).astype(int) - NOISE).max() < 8
    assert read(saved(progressive=True)).shape == NOISE.shape


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_bytes_after_the_end_of_an_image_are_no_fault(read, kind):
    """Some cameras add a film or a note."""
    data = saved(kind=kind)
    np.testing.assert_array_equal(read(data + bytes(range(256)) * 20), read(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_that_exif_says_is_turned_comes_out_upright(read, kind, orientation):
    ways = {
        1: NOISE,
        2: NOISE[:, ::-1],
        3: NOISE[::-1, ::-1],
        4: NOISE[::-1],
        5: NOISE.transpose(1, 0, 2),
        6: np.rot90(NOISE, -1),
        7: np.rot90(NOISE, 2).transpose(1, 0, 2),
        8: np.rot90(NOISE),
    }
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    upright = read(saved(kind=kind, exif=turned(orientation), **options))
    assert upright.shape == ways[orientation].shape
    assert np.abs(upright.astype(int) - ways[orientation]).max() < 8


def exif_of(value, kind=3, repeated=1):
    """Return an EXIF segment whose orientation is stored as this type and value."""
    size = 2 if kind == 3 else 1
    header = b"II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, kind, len(value) // size)
    return b"Exif\0\0" * repeated + header + value.ljust(4, b"\0") + bytes(4)


def png_with(*chunks):
    """Return a PNG file with more chunks after its header."""
    data, extra = saved(kind="PNG"), b""
    for name, contents in chunks:
        crc = struct.pack(">I", zlib.crc32(name + contents))
        extra += struct.pack(">I", len(contents)) + name + contents + crc
    return data[:33] + extra + data[33:]


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""
HEX = exif_of(struct.pack("<H", 6))[6:].hex().encode()
NOT_TURNED = {
    "text": saved(exif=exif_of(b"6\0", kind=2)),
    "byte": saved(exif=exif_of(b"\6", kind=1)),
    "nine": saved(exif=exif_of(struct.pack("<H", 9))),
    "zero": saved(exif=exif_of(struct.pack("<H", 0))),
    "header twice": saved(exif=exif_of(struct.pack("<H", 6), repeated=2)),
    "XMP": saved(xmp=XMP),
    "cut": saved(exif=exif_of(struct.pack("<H", 6))[:14]),
    "broken chunk": png_with((b"eXIf", bytes.fromhex("0008000201120003"))),
    "ImageMagick": png_with((b"tEXt", b"Raw profile type exif\0\nexif\n   34\n" + HEX + b"\n")),
}


@pytest.mark.parametrize("name", NOT_TURNED)
def test_only_an_orientation_from_1_to_8_in_an_exif_header_turns_an_image(read, read_mask, name):
    assert read(NOT_TURNED[name]).shape == NOISE.shape
    mask = saved(np.full(NOISE.shape[:2], 255, np.uint8), "PNG")
    assert read_mask(mask, NOISE.shape[:2]).all(), "a mask of the stored size is accepted"


def test_much_text_is_no_damage(read):
    long = b"Comment\0" + b"a" * 3_000_000
    data = png_with((b"tEXt", long), (b"zTXt", b"Comment\0\0" + zlib.compress(long)))
    np.testing.assert_array_equal(read(data), NOISE)


def test_whatever_pillow_raises_is_the_fault_of_the_file(fault, monkeypatch):
    def fail(image):
        raise struct.error("unpack requires a buffer of 12 bytes")

    monkeypatch.setattr(decode.PNG, "load", fail)
    assert fault(saved(kind="PNG")) == ("unreadable", "unpack requires a buffer of 12 bytes")


def test_damage_that_opencv_overlooks_is_refused_by_every_reader(fault, capfd):
    """A marker in the middle of the pixels: OpenCV shows a half-grey picture, with a warning."""
    data = bytearray(saved(progressive=True, quality=95))
    start = data.index(b"\xff\xda")
    data[start + 300 : start + 304] = b"\xff\xc4\x00\x05"
    assert fault(bytes(data))[0] in ("unreadable", "truncated")
    assert not capfd.readouterr().err


# --------------------------------------------------------------------------------------- colour


def exchanged():
    """Return a colour profile with red and blue exchanged, which is called other than sRGB."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = range(132, 132 + 12 * profile[131], 12)
    place = {bytes(profile[i : i + 4]): i + 4 for i in entries}
    red, blue = (bytes(profile[place[name] :][:8]) for name in (b"rXYZ", b"bXYZ"))
    profile[place[b"rXYZ"] : place[b"rXYZ"] + 8] = blue
    profile[place[b"bXYZ"] : place[b"bXYZ"] + 8] = red
    return bytes(profile).replace(b"s\0R\0G\0B", b"o\0t\0h\0e").replace(b"sRGB", b"othe")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_another_colour_profile_is_converted_to_srgb(read, kind):
    image = read(saved(kind=kind, icc_profile=exchanged()))
    plain = read(saved(kind=kind))
    assert np.abs(image[..., ::-1].astype(int) - plain).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("profile", ["srgb", "damaged", "none"])
def test_srgb_and_no_profile_leave_every_pixel(read, kind, profile):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profiles = {"srgb": srgb, "damaged": b"no profile" * 20, "none": None}
    data = saved(kind=kind, icc_profile=profiles[profile])
    np.testing.assert_array_equal(read(data), read(saved(kind=kind)))


# ---------------------------------------------------------------------------------- wrong pixels


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_a_png_that_is_not_8_bit_rgb_is_refused(fault, mode):
    assert fault(saved(Image.new(mode, (64, 64)), "PNG")) == ("wrong mode", f"mode {mode}")


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_jpeg_that_is_not_rgb_is_refused(fault, mode):
    assert fault(saved(Image.new(mode, (64, 64)))) == ("wrong mode", f"mode {mode}")


def test_16_bits_a_channel_are_refused_though_pillow_calls_them_rgb(fault):
    data = opencv(NOISE.astype(np.uint16) * 257)
    assert Image.open(io.BytesIO(data)).mode == "RGB"
    assert fault(data) == ("wrong mode", "mode RGB of 16 bits")


def test_transparency_is_refused_even_where_nothing_shows_through(fault):
    opaque = np.dstack([NOISE, np.full((64, 80), 255, np.uint8)])
    assert fault(saved(opaque, "PNG")) == ("wrong mode", "mode RGBA")
    one_colour = saved(kind="PNG", transparency=(1, 2, 3))
    assert fault(one_colour) == ("wrong mode", "mode RGB with transparency")


# ------------------------------------------------------------------------------------ wrong sizes


@pytest.mark.parametrize(("width", "height"), [(1, 1), (200, 31), (31, 200)])
def test_an_image_with_a_side_below_32_pixels_is_refused(fault, width, height):
    data = saved(np.zeros((height, width, 3), np.uint8), "PNG")
    assert fault(data) == ("too small", f"{width} x {height} pixels")


@pytest.mark.parametrize("side", [20_000, 2_000_000])
def test_an_image_that_promises_too_much_is_never_decoded(fault, monkeypatch, side):
    """20,000 x 20,000 pixels are 1.2 GB once decoded; the header alone is enough to refuse."""

    def decode(*_):
        pytest.fail("decoded")

    monkeypatch.setattr(cv2, "imdecode", decode)
    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    data = png_with_header(side, side)
    assert len(data) < 100
    assert fault(data) == ("too large", f"{side} x {side} pixels")


# ------------------------------------------------------------------------------------ broken files


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg: no such image"):
        decode.read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>", b"\xff\xd8\xff\xe0junk", b"\x89PNG\r\n\x1a\njunk"]
)
def test_what_is_no_image_is_unreadable(fault, content):
    problem, found = fault(content)
    assert problem == "unreadable"
    assert f"{len(content)} bytes" in found


@pytest.mark.parametrize("options", [{"kind": "PNG"}, {"kind": "JPEG"}, {"progressive": True}])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_truncated_image_is_refused(fault, options, share):
    """OpenCV may fill what is missing of a JPEG with grey, and say nothing."""
    data = saved(**options)
    assert fault(data[: int(len(data) * share)])[0] == "truncated"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_download_that_stopped_in_a_file_of_full_length_is_truncated(fault, kind):
    data = saved(kind=kind)
    half = len(data) // 2
    assert fault(data[:half] + bytes(len(data) - half))[0] == "truncated"


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image(fault, read):
    thumbnail = saved(NOISE[:16, :16])
    data = saved(comment=thumbnail)
    assert thumbnail in data
    assert read(data).shape == NOISE.shape
    assert fault(data[: len(data) * 3 // 4])[0] == "truncated"


def test_a_mark_of_the_end_that_belongs_to_the_header_does_not_end_the_image():
    """Not even where the file stops with it."""
    data = b"header \xff\xd9"
    for length, cut in ((len(data), True), (len(data) - 1, True), (len(data) - 2, False)):
        header = SimpleNamespace(format="JPEG", fp=io.BytesIO(data))
        header.fp.seek(length)
        assert decode._is_cut(header, data) == cut


def test_a_damaged_png_is_refused(tmp_path):
    data = bytearray(saved(kind="PNG"))
    data[len(data) // 2] ^= 0xFF
    file = tmp_path / "lesion.png"
    file.write_bytes(data)
    assert quality.inspect_image(file)[2] == "unreadable"
    with pytest.raises(ValueError, match=r"lesion\.png: broken data stream .* \(unreadable\)"):
        decode.read_image(file)


# --------------------------------------------------------------------------------- nothing to see


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (220, 160, 150)])
@pytest.mark.parametrize("side", [1, 64, 300])
def test_every_step_takes_an_image_of_one_colour(run, color, side):
    image = np.full((side, side, 3), color, np.uint8)
    steps = pipeline.enabled_steps(run.preprocessing)
    assert len(steps) == 6
    for name, step in steps.items():
        with np.errstate(all="raise"):
            image = step(image)
        assert image.shape == (256, 256, 3), name
        assert image.dtype == np.uint8, name
        assert np.ptp(image, axis=(0, 1)).max() == 0, f"{name} makes something of nothing"
    assert not hair.hair_mask(image).any()


def test_an_all_black_image_stays_all_but_black(run):
    """Equalisation lifts black by one step of its table, at most four grey levels."""
    black = np.zeros((64, 80, 3), np.uint8)
    assert pipeline.preprocess_image(black, run.preprocessing).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_of_one_colour_is_decoded_but_no_image_of_a_data_set(tmp_path, kind):
    for level in (0, 128, 255):
        file = tmp_path / f"{level}.img"
        file.write_bytes(saved(np.full((64, 80, 3), level, np.uint8), kind))
        assert set(decode.read_image(file).ravel()) == {level}
        expected = (80, 64, "blank", "a span of 0 grey levels")
        assert quality.inspect_image(file) == expected


def test_a_pale_spot_on_pale_skin_is_not_blank(read):
    image = np.full((256, 256, 3), (220, 160, 150), np.uint8)
    cv2.circle(image, (128, 128), 40, (208, 148, 138), -1)
    read(saved(image))


# ------------------------------------------------------------------------------------------ masks


SPOT = np.zeros((64, 80), np.uint8)
SPOT[20:40, 30:50] = 255


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_black_and_white_mask_is_read_however_it_is_stored(read_mask, mode):
    data = saved(Image.fromarray(SPOT).convert(mode), "PNG")
    np.testing.assert_array_equal(read_mask(data, (64, 80)), SPOT > 0)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "I;16"])
def test_a_mask_with_transparency_or_of_16_bits_is_refused(read_mask, mode):
    """Is the lesion what is white, or what is opaque? And of 16 bits, 255 is next to black."""
    data = (
        opencv(SPOT.astype(np.uint16))
        if mode == "I;16"
        else saved(Image.fromarray(SPOT).convert(mode), "PNG")
    )
    expected = rf"mask\.png: mode {mode} \(wrong mode\); expected .* without transparency"
    with pytest.raises(ValueError, match=expected):
        read_mask(data)


def test_a_truncated_mask_is_refused(read_mask):
    data = saved(SPOT, "PNG")
    with pytest.raises(ValueError, match=r"mask\.png: .* \(truncated\)"):
        read_mask(data[: len(data) // 2])


def test_a_mask_that_promises_too_much_is_refused(read_mask):
    with pytest.raises(ValueError, match=r"mask\.png: 20000 x 20000 pixels \(too large\)"):
        read_mask(png_with_header(20_000, 20_000))


def test_a_mask_of_another_size_is_refused(read_mask):
    with pytest.raises(
        ValueError, match=r"mask\.png: 80 x 64 pixels; expected the image's 40 x 32"
    ):
        read_mask(saved(SPOT, "PNG"), (32, 40))


def test_the_mask_of_a_turned_image_has_the_size_of_the_upright_one(read, read_mask):
    size = read(saved(exif=turned())).shape[:2]
    upright = np.rot90(SPOT, -1)
    np.testing.assert_array_equal(read_mask(saved(upright, "PNG"), size), upright > 0)
    with pytest.raises(ValueError, match="80 x 64 pixels; expected the image's 64 x 80"):
        read_mask(saved(SPOT, "PNG"), size)
