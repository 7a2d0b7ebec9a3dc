"""Read image and mask files: one decoder for training, evaluation and prediction."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin

from lib import paths

#: pixels; VGG16 takes no image with a side below 32
SMALLEST_SIDE = 32

#: pixels; a file with more is refused from its header, before it is decoded
LARGEST_AREA = 100_000_000

#: Pillow's names of 8-bit RGB, and of what a mask may be: black and white, grey, palette or RGB
IMAGE_MODES = ("RGB",)

MASK_MODES = ("1", "L", "P", "RGB")

#: What may be wrong with a file, and what it means.
FAULTS = {
    "unreadable": "not an image in JPEG or PNG format, or damaged",
    "truncated": "the file ends before the image does",
    "wrong mode": "not 8-bit RGB",
    "too small": f"a side below {SMALLEST_SIDE} pixels",
    "too large": f"more than {LARGEST_AREA // 10**6} million pixels",
}


def read_image(file: Path) -> np.ndarray:
    """Decode an image: the one way for training, evaluation and prediction.

    An image that EXIF says is turned comes out upright. Nothing is converted: colour is diagnostic,
    and grey-scale, CMYK, 16-bit or transparent pixels would become RGB by a guess.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3), RGB

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, or one of `FAULTS`. Damage in the middle of a JPEG is not noticed.
    """
    return _decode(
        file,
        cv2.IMREAD_COLOR_RGB,
        IMAGE_MODES,
        SMALLEST_SIDE,
        f"8-bit RGB, sides of at least {SMALLEST_SIDE} pixels",
    )


def read_mask(file: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a mask of 0 and 255.

    Parameters
    ----------
    size : tuple of int, optional
        Height and width that it must have: those of the image as `read_image` returns it, which
        is upright.

    Returns
    -------
    ndarray of bool, shape (height, width), true inside

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, not an image, with transparency, of 16 bits, of another size, or stored as 0
        and 1.
    """
    expected = "8-bit grey, black and white, palette or RGB, without transparency"
    mask = _decode(file, cv2.IMREAD_GRAYSCALE, MASK_MODES, 1, expected)
    if 0 < mask.max() <= 127:
        raise ValueError(
            f"{paths.relative(file)}: the largest value is {mask.max()}; expected 0 outside "
            "and 255 inside"
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
    """Look at the header and the end of a file, and decode nothing.

    Parameters
    ----------
    data : bytes
        The whole file.
    modes : iterable of str
        Pillow's names of the kinds of pixels that may be in it.
    smallest_side : int
        Pixels.

    Returns
    -------
    image : Image or None
        Not decoded; None where the header cannot be read.
    fault : str
        A key of `FAULTS`, or "" if there is none.
    found : str
        What was found instead, in words, or "".
    """
    kind = _kind(data)
    if kind is None:
        return None, "unreadable", f"not an image in JPEG or PNG format, {len(data)} bytes"
    try:
        image = kind(io.BytesIO(data))  # unlike Image.open, does not warn about large ones
    except (OSError, ValueError, SyntaxError) as error:
        return None, "unreadable", f"a damaged header, {len(data)} bytes, {in_words(error)}"
    width, height = image.size
    mode = _mode(image, data)
    if width * height > LARGEST_AREA:
        return image, "too large", f"{width} x {height} pixels"
    if min(width, height) < smallest_side:
        return image, "too small", f"{width} x {height} pixels"
    if mode not in modes:
        return image, "wrong mode", f"mode {mode}"
    if _is_cut(image, data):
        return image, "truncated", f"{len(data)} bytes without the mark that ends an image"
    return image, "", ""


def in_words(error: Exception) -> str:
    """Return an error's message in one line, without the addresses that Pillow adds."""
    return " ".join(str(error).split()).split(" <")[0][:120]


def _decode(
    file: Path, way: int, modes: Iterable[str], smallest_side: int, expected: str
) -> np.ndarray:
    try:
        with open(file, "rb", buffering=0) as opened:  # threads wait for each call less
            data = opened.readall()
    except FileNotFoundError:
        raise FileNotFoundError(f"{paths.relative(file)}: no such image") from None
    _, fault, found = read_header(data, modes, smallest_side)
    image = None if fault else cv2.imdecode(np.frombuffer(data, np.uint8), way)
    if image is None:
        raise ValueError(
            f"{paths.relative(file)}: {found or 'pixels that OpenCV cannot decode'} "
            f"({fault or 'unreadable'}); expected a JPEG or PNG file, {expected}, at most "
            f"{LARGEST_AREA // 10**6} million pixels"
        )
    return image


def _kind(data: bytes) -> Callable | None:
    """Return what reads this file's header, by its first bytes."""
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    return None


def _mode(image: Image.Image, data: bytes) -> str:
    """Return Pillow's mode, and what it does not tell: 16-bit RGB, and a transparent colour."""
    if image.format == "PNG" and data[24] == 16 and image.mode == "RGB":  # IHDR's bit depth
        return "RGB of 16 bits"
    if "transparency" in image.info:
        return f"{image.mode} with transparency"
    return image.mode


def _is_cut(image: Image.Image, data: bytes) -> bool:
    """Tell whether a file has no mark that ends the image; more bytes may follow the mark.

    The end of a JPEG is looked for after its header, which may hold a smaller JPEG; among the
    pixels the mark cannot occur (ITU-T T.81, B.1.1.2).
    """
    if image.format == "PNG":
        return data.rfind(b"IEND") < 0
    end, start = b"\xff\xd9", image.fp.tell()
    # nearly always the last bytes; to look from the start takes longer than to read the header
    return data.find(end, max(start, len(data) - 2)) < 0 and data.find(end, start) < 0
