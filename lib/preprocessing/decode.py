"""Read image and mask files: one decoder for the check of a data set, training and prediction.

Pillow decodes, and nothing else does: what the check refuses, every other reader refuses with the
same words.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin, PngImagePlugin

from lib import paths

SMALLEST_SIDE = 32  # pixels; the smallest image that VGG16 accepts
LARGEST_AREA = 100_000_000  # pixels; a larger file is refused from its header
#: Pillow's names of 8-bit RGB, and of the modes of a mask: black and white, grey, palette or RGB.
IMAGE_MODES = ("RGB",)
MASK_MODES = ("1", "L", "P", "RGB")

#: Possible faults of a file.
FAULTS = {
    "unreadable": "not an image in JPEG or PNG format, or damaged",
    "truncated": "the file ends before the image does",
    "wrong mode": "not 8-bit RGB",
    "too small": f"a side below {SMALLEST_SIDE} pixels",
    "too large": f"more than {LARGEST_AREA // 10**6} million pixels",
}

#: Pillow's readers, by the first bytes of a file.
JPEG, PNG = JpegImagePlugin.JpegImageFile, PngImagePlugin.PngImageFile
KINDS = {b"\xff\xd8\xff": JPEG, b"\x89PNG\r\n\x1a\n": PNG}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
warnings.filterwarnings("ignore", module="PIL")  # about headers, without the file's name
# by default Pillow calls a PNG file damaged that has more than a megabyte of text
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**26


def read_image(file: Path) -> np.ndarray:
    """Decode an image: the one way for training, evaluation and prediction.

    It is turned upright (`orientation`) and converted to sRGB if it embeds another colour profile.
    No other mode is converted to RGB, because colour is diagnostic: for grey-scale, CMYK, 16-bit or
    transparent pixels it would be a guess.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3), RGB

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, or one of `FAULTS`. Not all damage in the middle of a JPEG is detected.
    """
    return _read(file, f"8-bit RGB, sides of at least {SMALLEST_SIDE} pixels")


def read_mask(file: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a mask of 0 and 255.

    Parameters
    ----------
    size : tuple of int, optional
        Expected height and width: those of its image as `read_image` returns it.

    Returns
    -------
    ndarray of bool, shape (height, width), true inside

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, not an image, transparent, of 16 bits, of another size, or stored as 0 and 1
        instead of 0 and 255.
    """
    expected = "8-bit grey, black and white, palette or RGB, without transparency"
    mask = _read(file, expected, mask=True)
    if 0 < mask.max() <= 127:
        raise ValueError(
            f"{paths.relative(file)}: the largest value is {mask.max()}; expected 0 and 255"
        )
    if size is not None and mask.shape != size:
        raise ValueError(
            f"{paths.relative(file)}: {mask.shape[1]} x {mask.shape[0]} pixels; expected the "
            f"image's {size[1]} x {size[0]}"
        )
    return mask > 127


def check_rgb(image: np.ndarray) -> None:
    """Raise ValueError unless an array is an image as `read_image` returns it."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"{image.dtype} of shape {image.shape}; expected uint8 of shape (height, width, 3)"
        )


def decode(
    data: bytes, mask: bool = False, reduced: bool = False
) -> tuple[np.ndarray | None, tuple[int, int] | None, str, str]:
    """Check and decode the contents of a file.

    Whatever Pillow raises for a file is a fault of the file.

    Parameters
    ----------
    data : bytes
        The whole file.
    mask : bool
        The file may have the modes of a mask, and any size; it is converted to grey.
    reduced : bool
        Decode a JPEG at an eighth of its size, which is faster and finds the same faults.

    Returns
    -------
    pixels : ndarray of uint8, shape (height, width, 3) or (height, width), or None
        Upright and in sRGB; None if there is a fault.
    size : tuple of int, or None
        Width and height of the upright image; None where the header cannot be read.
    fault : str
        A key of `FAULTS`, or "" if there is none.
    detail : str
        A description of what was found, or "".
    """
    kind = next((kind for start, kind in KINDS.items() if data.startswith(start)), None)
    if kind is None:
        return None, None, "unreadable", f"not an image in JPEG or PNG format, {len(data)} bytes"
    try:
        image = kind(io.BytesIO(data))  # unlike Image.open, no warning about large images
    except Exception as error:
        return None, None, "unreadable", f"a damaged header, {len(data)} bytes, {one_line(error)}"
    turn = orientation(image)
    size = image.size[::-1] if turn >= 5 else image.size
    if fault := _fault_of_header(image, data, mask):
        return None, size, *fault
    try:
        if reduced:
            image.draft("RGB", (1, 1))
        image.load()
        pixels = np.array(image.convert("L") if mask else _in_srgb(image))
    except Exception as error:
        detail = one_line(error)
        return None, size, "truncated" if "truncated" in detail else "unreadable", detail
    pixels = pixels.swapaxes(0, 1) if turn >= 5 else pixels
    down, right = -1 if turn in (3, 4, 7, 8) else 1, -1 if turn in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::down, ::right]), size, "", ""


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 where it has none.

    Only an integer in an EXIF header of its own counts: Pillow would also look in XMP and in text,
    where other programs find nothing.
    """
    header = image.info.get("exif", b"")
    try:
        exif = Image.Exif()
        exif.load(header if header[6:10] in (b"II*\0", b"MM\0*") else b"")
        value = exif.get(ExifTags.Base.Orientation)
    except Exception:  # a damaged header says nothing
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def one_line(error: Exception) -> str:
    """Return an error's message on one line, without the addresses that Pillow adds.

    >>> one_line(OSError("cannot identify image file <_io.BytesIO object at 0x7f>"))
    'cannot identify image file'
    """
    return " ".join(str(error).split()).split(" <")[0][:120]


def _read(file: Path, expected: str, mask: bool = False) -> np.ndarray:
    try:
        data = Path(file).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{paths.relative(file)}: no such image") from None
    pixels, _, fault, detail = decode(data, mask)
    if fault:
        raise ValueError(
            f"{paths.relative(file)}: {detail} ({fault}); expected a JPEG or PNG file, {expected}, "
            f"at most {LARGEST_AREA // 10**6} million pixels"
        )
    return pixels


def _fault_of_header(image: Image.Image, data: bytes, mask: bool) -> tuple[str, str] | None:
    """Return the fault of a file that can be told without decoding it, and its description."""
    (width, height), mode = image.size, _mode(image, data)
    if width * height > LARGEST_AREA:
        return "too large", f"{width} x {height} pixels"
    if min(width, height) < (1 if mask else SMALLEST_SIDE):
        return "too small", f"{width} x {height} pixels"
    if mode not in (MASK_MODES if mask else IMAGE_MODES):
        return "wrong mode", f"mode {mode}"
    if _is_cut(image, data):
        return "truncated", f"{len(data)} bytes without the marker that ends an image"
    return None


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert RGB to sRGB if the file embeds another profile; one that is damaged says nothing."""
    profile = image.info.get("icc_profile", b"")
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(embedded):
            return image
        return ImageCms.profileToProfile(image, embedded, SRGB)
    except (ImageCms.PyCMSError, OSError):  # no profile, or not one of RGB
        return image


def _mode(image: Image.Image, data: bytes) -> str:
    """Return Pillow's mode, made more precise for 16-bit RGB and for a transparent colour."""
    if image.format == "PNG" and data[24] == 16 and image.mode == "RGB":  # IHDR's bit depth
        return "RGB of 16 bits"
    if "transparency" in image.info:
        return f"{image.mode} with transparency"
    return image.mode


def _is_cut(image: Image.Image, data: bytes) -> bool:
    """Return whether a file lacks the marker that ends the image; other bytes may follow it.

    In a JPEG the marker is searched for after the header, which may hold a smaller JPEG; it cannot
    occur among the pixels (ITU-T T.81, B.1.1.2).
    """
    if image.format == "PNG":
        return data.rfind(b"IEND") < 0
    end, start = b"\xff\xd9", image.fp.tell()
    # nearly always the last bytes; a search from the start takes longer than reading the header
    return data.find(end, max(start, len(data) - 2)) < 0 and data.find(end, start) < 0
