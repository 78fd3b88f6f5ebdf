"""What is decoded, what is refused and in which words."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from busistore import pixels
from busistore.errors import BadInput
from tests.fakes import speckle


def encoded(image: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def as_format(name: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(GREY).save(out, name)
    return out.getvalue()


GREY = speckle(1)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(32, 48), st.integers(32, 48))))
def test_grey_png_round_trip(picture):
    assert (pixels.grey(pixels.png(picture)) == picture).all()


def test_one_picture_has_one_hash_in_every_mode():
    grey = Image.fromarray(GREY)
    opaque = grey.convert("RGBA")
    hashes = {pixels.pixels_sha256(pixels.open_image(encoded(i), "x")) for i in (grey, grey.convert("RGB"), opaque)}
    assert hashes == {pixels.pixels_sha256(GREY)}
    assert pixels.pixels_sha256(GREY.T) != pixels.pixels_sha256(GREY)


def test_hash_knows_the_shape():
    flat = np.zeros((32, 64), np.uint8)
    assert pixels.pixels_sha256(flat) != pixels.pixels_sha256(flat.reshape(64, 32))


def test_colour_becomes_luma():
    red = Image.new("RGB", (40, 40), (255, 0, 0))
    assert pixels.grey(encoded(red))[0, 0] == 76  # 0.299 * 255, ITU-R BT.601


def test_palette_is_decoded():
    palette = Image.fromarray(GREY).convert("P")
    assert pixels.mode(encoded(palette)) == "P"
    assert np.abs(pixels.grey(encoded(palette)).astype(int) - GREY).max() <= 2


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1), (0, 200)])
def test_masks_of_any_two_levels(low, high):
    lesion = np.zeros((40, 50), bool)
    lesion[5:9, 6:20] = True
    assert (pixels.mask(encoded(Image.fromarray(np.where(lesion, high, low).astype(np.uint8)))) == lesion).all()


def test_an_empty_mask_is_empty():
    assert not pixels.mask(encoded(Image.new("1", (40, 40)))).any()


def see_through() -> Image.Image:
    image = Image.fromarray(GREY).convert("RGBA")
    image.putalpha(Image.fromarray(GREY))
    return image


REFUSED = {
    "not a picture": (b"hello", "is not a PNG picture"),
    "truncated": (encoded(Image.fromarray(GREY))[:-400], "damaged or truncated"),
    "broken header": (encoded(Image.fromarray(GREY))[:20], "is not a PNG picture|damaged"),
    "one pixel": (encoded(Image.new("L", (1, 1))), "is 1 x 1 px, the least is 32 x 32"),
    "16 bit": (encoded(Image.fromarray(GREY.astype(np.uint16) * 257)), "has 16 bits a sample"),
    "16 bit colour": (cv2.imencode(".png", np.stack([GREY] * 3, 2).astype(np.uint16) * 257)[1].tobytes(), "16 bits"),
    "another format": (as_format("GIF"), "is not a PNG picture"),
    "a program": (as_format("EPS"), "is not a PNG picture"),
    "transparent": (encoded(see_through()), "transparent pixels; flatten it"),
    "too wide": (encoded(Image.new("1", (20_000, 32))), "the most is 16384"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    data, words = REFUSED[case]
    with pytest.raises(BadInput, match=words) as caught:
        pixels.grey(data, "benign (3).png")
    assert "'benign (3).png'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["PNG", "BMP", "TIFF"])
def test_any_picture_is_the_same_in_every_format(name):
    assert (np.asarray(pixels.open_any(as_format(name), "x")) == GREY).all()


def test_any_picture_may_be_a_photograph_in_colour_turned_by_its_camera():
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(GREY).convert("RGB").save(out, "JPEG", exif=exif, quality=95)
    turned = pixels.open_any(out.getvalue(), "x.jpg")
    assert turned.mode == "RGB"
    assert np.abs(np.asarray(turned.convert("L")).astype(int) - np.rot90(GREY, -1)).mean() < 5


def pages() -> bytes:
    out = io.BytesIO()
    Image.fromarray(GREY).save(out, "TIFF", save_all=True, append_images=[Image.fromarray(GREY)])
    return out.getvalue()


def deep_tiff(kind: type) -> bytes:
    out = io.BytesIO()
    Image.fromarray(GREY.astype(kind)).save(out, "TIFF")
    return out.getvalue()


REFUSED_OF_ANY = {
    "not a picture": (b"hello", r"is not a picture that can be read \(PNG, JPEG, BMP, TIFF\); export it as PNG"),
    "another format": (as_format("GIF"), "is not a picture"),
    "a program": (as_format("EPS"), "is not a picture"),
    "truncated": (as_format("JPEG")[:-400], "damaged or truncated"),
    "truncated bitmap": (as_format("BMP")[:-400], "damaged or truncated"),
    "several pages": (pages(), "holds 2 pictures"),
    "16 bit": (deep_tiff(np.uint16), "has 16 bits a sample"),
    "32 bit": (deep_tiff(np.float32), "has 32 bits a sample"),
    "one pixel": (encoded(Image.new("L", (1, 1))), "the least is 32 x 32"),
}


@pytest.mark.parametrize("case", REFUSED_OF_ANY)
def test_refused_of_any_format(case):
    data, words = REFUSED_OF_ANY[case]
    with pytest.raises(BadInput, match=words):
        pixels.open_any(data, "scan")


def test_a_flipped_byte_is_found():
    data = bytearray(encoded(Image.fromarray(GREY)))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(BadInput, match="damaged"):
        pixels.grey(bytes(data), "x.png")


def test_unreadable_files(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(BadInput, match="empty"):
        pixels.read_bytes(tmp_path / "empty.png")
    with pytest.raises(BadInput, match=r"'none\.png' cannot be read"):
        pixels.read_bytes(tmp_path / "none.png")
