"""Pictures in and out: what is decoded, what is refused and why, and the hashes that tell two pictures apart."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from busistore.errors import BadInput
from busistore.ids import sha256

MIN_SIDE_PX = 32  # below this no lesion can be seen and no near-duplicate be told
MAX_SIDE_PX = 16_384  # above this a header is taken for damage, before memory is spent on it
IHDR_BIT_DEPTH = 24  # byte of a PNG file with the bits of a sample: after signature, length, name, width, height
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # of a single picture that somebody asks about; data sets come as PNG
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # those of 8 bits a sample
Image.MAX_IMAGE_PIXELS = None  # the sides are checked here, with a message that names the file


def read_bytes(path: Path) -> bytes:
    """The file's bytes; raises BadInput when it cannot be read or is empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"'{path.name}' cannot be read ({error.strerror}); check its permissions") from None
    if not data:
        raise BadInput(f"'{path.name}' is empty; copy it again")
    return data


def open_image(data: bytes, name: str) -> Image.Image:
    """A decoded 8-bit PNG picture, mode L or RGB.

    Raises:
        BadInput: not a picture, truncated, too small or large, 16-bit, or with transparent pixels.
    """
    return _decoded(data, name, ("PNG",), "is not a PNG picture; replace it or take it out of the folder")


def open_any(data: bytes, name: str) -> Image.Image:
    """A decoded 8-bit picture of FORMATS, mode L or RGB, turned as its camera says; raises BadInput as `open_image`."""
    told = f"is not a picture that can be read ({', '.join(FORMATS)}); export it as PNG"
    return ImageOps.exif_transpose(_decoded(data, name, FORMATS, told))


def _decoded(data: bytes, name: str, formats: tuple[str, ...], otherwise: str) -> Image.Image:
    try:
        image = _opened(data, formats)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise BadInput(f"'{name}' {otherwise}") from None
    _check_header(image, _bits(image, data), name)
    if image.format == "TIFF" and image.n_frames > 1:
        raise BadInput(f"'{name}' holds {image.n_frames} pictures; export the one that is meant as PNG")
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError, zlib.error):
        raise BadInput(f"'{name}' is damaged or truncated; copy it again") from None
    return _opaque(image, name)


def _opened(data: bytes, formats: tuple[str, ...] = ("PNG",)) -> Image.Image:
    """Of these formats and nothing else: for some Pillow would start another program."""
    return Image.open(io.BytesIO(data), formats=formats)


def _bits(image: Image.Image, data: bytes) -> int:
    """Of a sample: what the header of a PNG says, which its mode does not tell of colour."""
    if image.format == "PNG":
        return data[IHDR_BIT_DEPTH]
    return 8 if image.mode in MODES else 16 if image.mode.startswith("I;16") else 32


def _check_header(image: Image.Image, bit_depth: int, name: str) -> None:
    sides = f"{image.width} x {image.height} px"
    if min(image.size) < MIN_SIDE_PX:
        raise BadInput(f"'{name}' is {sides}, the least is {MIN_SIDE_PX} x {MIN_SIDE_PX}; export it at full size")
    if max(image.size) > MAX_SIDE_PX:
        raise BadInput(f"'{name}' is {sides}, the most is {MAX_SIDE_PX} a side; its header may be damaged")
    if bit_depth > 8:  # Pillow would drop the lower byte of 16-bit colour without a word
        raise BadInput(f"'{name}' has {bit_depth} bits a sample; export it as 8-bit grey or RGB")


def _opaque(image: Image.Image, name: str) -> Image.Image:
    """The picture as L or RGB; an alpha channel may go only where it hides nothing."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise BadInput(f"'{name}' has transparent pixels; flatten it on black and save it again")
    return image if image.mode == "L" else image.convert("L" if image.mode == "1" else "RGB")


def mode(data: bytes) -> str:
    """How the file stores its pixels, in Pillow's words: L, RGB, RGBA, P."""
    return _opened(data).mode


def grey(data: bytes, name: str = "image") -> np.ndarray:
    """The picture as (H, W) uint8 grey, by the ITU-R 601 luma that the published protocol uses."""
    return np.asarray(open_image(data, name).convert("L"))


def mask(data: bytes, name: str = "mask") -> np.ndarray:
    """A lesion mask as (H, W) bool: above half of its largest grey level, so that 0/1 and 0/255 files agree."""
    levels = grey(data, name)
    return levels > levels.max() // 2 if levels.any() else np.zeros(levels.shape, bool)


def png(pixels: np.ndarray) -> bytes:
    """(H, W) uint8 grey or bool, or (H, W, 3) uint8, as PNG bytes; the same pixels always give the same bytes."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=6)
    return out.getvalue()


def pixels_sha256(image: Image.Image | np.ndarray) -> str:
    """Hash of what is seen: equal for two files of the same picture, whatever their mode or compression."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    return sha256(f"{image.width}x{image.height}:".encode() + image.convert("RGB").tobytes())
