"""Read image and mask files: one decoder for training, evaluation and prediction."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin

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


def read_image(file: Path) -> np.ndarray:
    """Decode an image: the one way for training, evaluation and prediction.

    The EXIF orientation is applied. No other mode is converted to RGB, because colour is
    diagnostic: for grey-scale, CMYK, 16-bit or transparent pixels it would be a guess.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3), RGB

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, or one of `FAULTS`. Damage in the middle of a JPEG is not detected.
    """
    expected = f"8-bit RGB, sides of at least {SMALLEST_SIDE} pixels"
    return _decode(file, cv2.IMREAD_COLOR_RGB, IMAGE_MODES, SMALLEST_SIDE, expected)


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
    mask = _decode(file, cv2.IMREAD_GRAYSCALE, MASK_MODES, 1, expected)
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


def read_header(
    data: bytes, modes: Iterable[str] = IMAGE_MODES, smallest_side: int = SMALLEST_SIDE
) -> tuple[Image.Image | None, str, str]:
    """Check the header and the end of a file without decoding it.

    Parameters
    ----------
    data : bytes
        The whole file.
    modes : iterable of str
        Pillow's names of the allowed modes.
    smallest_side : int
        Pixels.

    Returns
    -------
    image : Image or None
        Not decoded; None where the header cannot be read.
    fault : str
        A key of `FAULTS`, or "" if there is none.
    detail : str
        A description of what was found, or "".
    """
    kind = _kind(data)
    if kind is None:
        return None, "unreadable", f"not an image in JPEG or PNG format, {len(data)} bytes"
    try:
        image = kind(io.BytesIO(data))  # unlike Image.open, no warning about large images
    except (OSError, ValueError, SyntaxError) as error:
        return None, "unreadable", f"a damaged header, {len(data)} bytes, {one_line(error)}"
    width, height = image.size
    mode = _mode(image, data)
    if width * height > LARGEST_AREA:
        return image, "too large", f"{width} x {height} pixels"
    if min(width, height) < smallest_side:
        return image, "too small", f"{width} x {height} pixels"
    if mode not in modes:
        return image, "wrong mode", f"mode {mode}"
    if _is_cut(image, data):
        return image, "truncated", f"{len(data)} bytes without the marker that ends an image"
    return image, "", ""


def one_line(error: Exception) -> str:
    """Return an error's message on one line, without the addresses that Pillow adds.

    >>> one_line(OSError("cannot identify image file <_io.BytesIO object at 0x7f>"))
    'cannot identify image file'
    """
    return " ".join(str(error).split()).split(" <")[0][:120]


def _decode(
    file: Path, flags: int, modes: Iterable[str], smallest_side: int, expected: str
) -> np.ndarray:
    try:
        data = Path(file).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{paths.relative(file)}: no such image") from None
    _, fault, detail = read_header(data, modes, smallest_side)
    image = None if fault else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError(
            f"{paths.relative(file)}: {detail or 'pixels that OpenCV cannot decode'} "
            f"({fault or 'unreadable'}); expected a JPEG or PNG file, {expected}, at most "
            f"{LARGEST_AREA // 10**6} million pixels"
        )
    return image


def _kind(data: bytes) -> Callable | None:
    """Return Pillow's reader of a file's format, recognised by its first bytes."""
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    return None


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
