"""Convert images of other formats and modes to 8-bit RGB PNG: `make data FROM=... CONVERT=1`."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from lib.preprocessing import decode

#: Formats that can be converted and, beside JPEG and PNG, their file names' ends.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
SUFFIXES = (".webp", ".tif", ".tiff", ".bmp")
#: Formats that cannot, by the ends of their file names.
OTHERS = {".heic": "HEIC", ".heif": "HEIC", ".dcm": "DICOM"}
#: Pillow's modes in words; of RGB only the format is other.
MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "RGB": "RGB",
    "RGBA": "RGB with transparency",
}
PNG_SUFFIX = ".png"


def is_picture(name: str | Path) -> bool:
    """Decide by its name whether a file is an image that can be converted or has to be refused."""
    name = Path(name).name.lower()
    return name.endswith((*SUFFIXES, *OTHERS)) and not name.startswith(".")


def to_rgb(data: bytes) -> tuple[bytes, str]:
    """Convert the contents of an image file.

    Values of 16 bits are divided by 257. What is transparent shows white. The image is turned
    upright; a colour profile of RGB stays, for `decode.decode` to convert.

    Returns
    -------
    png : bytes
        8-bit RGB.
    kind : str
        What it was, such as `grey JPEG`.

    Raises
    ------
    ValueError
        Another format or mode, several pages, damaged, or too large.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
    except Exception as error:  # whatever Pillow raises is a fault of the file
        raise ValueError(decode.one_line(error)) from None
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"{image.n_frames} pages; expected one")
    kind = f"{MODES.get(image.mode, image.mode)} {image.format}"
    profile = image.info.get("icc_profile") if image.mode.startswith("RGB") else None
    deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is not None and deep.dtype == np.uint16:
        kind = f"16-bit {image.format}"
        image = _of_16_bits(deep)
    elif image.mode not in MODES:
        raise ValueError(f"mode {image.mode}; expected one of {', '.join(MODES)}, or 16 bits")
    else:
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", icc_profile=profile)
    return buffer.getvalue(), kind


def _of_16_bits(values: np.ndarray) -> Image.Image:
    """Return OpenCV's grey, BGR or BGRA array of 16 bits as an image of 8."""
    values = np.rint(values / 257).astype(np.uint8)
    if values.ndim == 2:
        return Image.fromarray(values)
    order = [2, 1, 0, 3] if values.shape[2] == 4 else [2, 1, 0]
    return Image.fromarray(np.ascontiguousarray(values[..., order]))
