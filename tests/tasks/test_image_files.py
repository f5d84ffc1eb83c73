"""One image file to intensities: depth, orientation, transparency and frames, by arithmetic."""

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from autocompress.errors import TaskError
from autocompress.tasks.image_files import FORMATS, Form, read_image
from autocompress.tasks.remarks import Remarks

SIZE = 8
GRAY, COLOR = Form(SIZE, 1), Form(SIZE, 3)


def read(path: Path, form: Form = GRAY) -> NDArray[Any]:
    return read_image(path, form, Remarks())


def said(path: Path, form: Form = GRAY) -> tuple[str, ...]:
    remarks = Remarks()
    read_image(path, form, remarks)
    return remarks.lines()


def uniform(values: NDArray[Any]) -> list[float]:
    """The one value of each channel, on the scale from 0 to 1."""
    assert np.ptp(values.reshape(len(values), -1), axis=1).max() == 0
    top = 255 if values.dtype == np.uint8 else 1
    return [float(value) / top for value in values[:, 0, 0]]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(path: Path, depth: int, kind: int, row: bytes, *chunks: bytes, size: int = SIZE) -> Path:
    """A PNG file whose rows are all alike; kind: 0 gray, 2 RGB, 4 gray and alpha, 6 RGBA."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, depth, kind, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress((b"\0" + row) * size))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + data + chunk(b"IEND", b""))
    return path


def tiff(path: Path, data: bytes, bits: Sequence[int], size: int = SIZE, order: str = "<", **tags: int) -> Path:
    """An uncompressed TIFF file of one strip; tags: photometric, sample_format, extra, orientation."""
    count = len(bits)
    rows = {256: size, 257: size, 259: 1, 262: tags.get("photometric", 1), 277: count, 278: size, 279: len(data)}
    rows |= {338: tags["extra"]} if "extra" in tags else {}
    rows |= {339: tags["sample_format"]} if "sample_format" in tags else {}
    rows |= {274: tags["orientation"]} if "orientation" in tags else {}
    after = 8 + 2 + 12 * (len(rows) + 2) + 4
    wide = struct.pack(f"{order}{count}H", *bits)
    entries = [(tag, struct.pack(order + "HHIHH", tag, 3, 1, value, 0)) for tag, value in rows.items()]
    inline = wide.ljust(4, b"\0") if count <= 2 else struct.pack(order + "I", after)
    entries.append((258, struct.pack(order + "HHI", 258, 3, count) + inline))
    entries.append((273, struct.pack(order + "HHII", 273, 4, 1, after + len(wide))))
    body = struct.pack(order + "H", len(entries)) + b"".join(entry for _, entry in sorted(entries)) + bytes(4)
    path.write_bytes((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + body + wide + data)
    return path


# Depth


def test_eight_bits_stay_bytes(tmp_path: Path) -> None:
    Image.new("L", (SIZE, SIZE), 51).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png")
    assert found.dtype == np.uint8
    assert uniform(found) == [51 / 255]
    Image.new("RGB", (SIZE, SIZE), (10, 20, 30)).save(tmp_path / "b.png")
    assert uniform(read(tmp_path / "b.png", COLOR)) == [10 / 255, 20 / 255, 30 / 255]
    # 0.299 * 10 + 0.587 * 20 + 0.114 * 30 = 18.15
    assert uniform(read(tmp_path / "b.png", GRAY)) == [18 / 255]
    assert uniform(read(tmp_path / "a.png", COLOR)) == [51 / 255] * 3


@pytest.mark.parametrize("value", [0, 257, 1000, 13107, 65535])
@pytest.mark.parametrize("name", ["a.png", "little.tif", "big.tif", "a.pgm"])
def test_sixteen_bits_are_shares_of_65535(tmp_path: Path, name: str, value: int) -> None:
    path = tmp_path / name
    pixels = np.full((SIZE, SIZE), value, np.uint16)
    if name == "big.tif":
        tiff(path, pixels.astype(">u2").tobytes(), [16], order=">")
    elif name == "a.pgm":
        path.write_bytes(b"P5 %d %d 65535\n" % (SIZE, SIZE) + pixels.astype(">u2").tobytes())
    else:
        Image.fromarray(pixels).save(path)
    assert uniform(read(path)) == pytest.approx([value / 65535], abs=1e-7)
    assert uniform(read(path, COLOR)) == pytest.approx([value / 65535] * 3, abs=1e-7)


def test_sixteen_bits_and_eight_bits_of_one_picture_agree(tmp_path: Path) -> None:
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(eight).save(tmp_path / "8.png")
    Image.fromarray(eight.astype(np.uint16) * 257).save(tmp_path / "16.png")  # 65535 = 255 * 257
    form = Form(16, 1)
    np.testing.assert_allclose(read(tmp_path / "16.png", form), read(tmp_path / "8.png", form) / 255, atol=1e-6)
    # Shrunk, the bytes are rounded twice: along rows and along columns.
    np.testing.assert_allclose(read(tmp_path / "16.png"), read(tmp_path / "8.png") / 255, atol=1 / 255)


def test_an_image_of_few_of_its_sixteen_bits_keeps_them_all(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_allclose(read(tmp_path / "a.png")[0], pixels / 65535, atol=1e-9)


def test_twelve_bits_are_shares_of_4095(tmp_path: Path) -> None:
    packed = bytes([0x80, 0x08, 0x00]) * (SIZE * SIZE // 2)  # two pixels of 0x800 = 2048
    assert uniform(read(tiff(tmp_path / "a.tif", packed, [12]))) == pytest.approx([2048 / 4095], abs=1e-6)


def test_where_white_is_zero_it_is_white(tmp_path: Path) -> None:
    eight = tiff(tmp_path / "8.tif", bytes([51]) * SIZE * SIZE, [8], photometric=0)
    sixteen = tiff(tmp_path / "16.tif", struct.pack("<H", 13107) * SIZE * SIZE, [16], photometric=0)
    assert uniform(read(eight)) == pytest.approx([0.8])  # 51 / 255 = 13107 / 65535 = 0.2
    assert uniform(read(sixteen)) == pytest.approx([0.8])


def test_pgm_files_of_any_largest_value(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 15\n" + bytes([3]) * 64)
    assert uniform(read(tmp_path / "a.pgm")) == [0.2]
    (tmp_path / "b.pgm").write_bytes(b"P5 8 8 1000\n" + struct.pack(">H", 200) * 64)
    assert uniform(read(tmp_path / "b.pgm")) == pytest.approx([0.2], abs=1e-5)


def test_floats_from_0_to_1_are_intensities(tmp_path: Path) -> None:
    Image.fromarray(np.full((SIZE, SIZE), 0.3, np.float32)).save(tmp_path / "a.tif")
    assert uniform(read(tmp_path / "a.tif")) == pytest.approx([0.3])
    assert uniform(read(tmp_path / "a.tif", COLOR)) == pytest.approx([0.3] * 3)


@pytest.mark.parametrize("value", [1.5, 200.0, -0.1, np.nan, np.inf])
def test_other_floats_are_refused(tmp_path: Path, value: float) -> None:
    pixels = np.full((SIZE, SIZE), 0.3, np.float32)
    pixels[2, 3] = value
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(TaskError, match=r"a.tif: holds floats from .*, but floats are intensities from 0 to 1: divide"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize(("letter", "bits", "sample_format"), [("h", 16, 2), ("i", 32, 2), ("I", 32, 1)])
def test_integers_of_unknown_range_are_refused(tmp_path: Path, letter: str, bits: int, sample_format: int) -> None:
    path = tiff(tmp_path / "a.tif", struct.pack(f"<64{letter}", *range(64)), [bits], sample_format=sample_format)
    with pytest.raises(TaskError, match=r"a.tif: has pixels of mode I .*whose depth is not known: save 8 or 16 bits"):
        read(path)


def test_colours_of_sixteen_bits_are_read_in_eight_and_it_is_said(tmp_path: Path) -> None:
    values = (65535, 13107, 1000)
    path = png(tmp_path / "a.png", 16, 2, struct.pack(">3H", *values) * SIZE)
    assert uniform(read(path, COLOR)) == pytest.approx([value / 65535 for value in values], abs=1 / 255)
    assert said(path, COLOR) == (f"colours of 16 bits are read in 8: {path}",)
    other = tiff(tmp_path / "a.tif", struct.pack("<3H", *values) * SIZE * SIZE, [16] * 3, photometric=2)
    assert uniform(read(other, COLOR)) == pytest.approx([value / 65535 for value in values], abs=1 / 255)
    assert said(other, COLOR) == (f"colours of 16 bits are read in 8: {other}",)
    plain = tmp_path / "a.ppm"
    plain.write_bytes(b"P6 8 8 65535\n" + struct.pack(">3H", *values) * 64)
    assert uniform(read(plain, COLOR)) == pytest.approx([value / 65535 for value in values], abs=1 / 255)
    assert said(plain, COLOR) == (f"colours of 16 bits are read in 8: {plain}",)


# Modes


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.tile([[True, False]], (SIZE, SIZE // 2))).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png")
    assert found[0, 0].tolist() == [255, 0] * 4


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    image = Image.new("P", (SIZE, SIZE), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    for name in ("a.png", "a.gif", "a.bmp"):
        image.save(tmp_path / name)
        assert uniform(read(tmp_path / name, COLOR)) == [200 / 255, 100 / 255, 50 / 255]


def test_cmyk_is_mixed(tmp_path: Path) -> None:
    for name in ("a.tif", "a.jpg"):
        Image.new("CMYK", (SIZE, SIZE), (255, 0, 51, 0)).save(tmp_path / name)
        assert uniform(read(tmp_path / name, COLOR)) == pytest.approx([0, 1, 0.8], abs=0.02)


def test_ycbcr_is_converted(tmp_path: Path) -> None:
    Image.new("YCbCr", (SIZE, SIZE), (100, 128, 128)).save(tmp_path / "a.tif")  # no colour: gray of luma 100
    assert uniform(read(tmp_path / "a.tif", COLOR)) == pytest.approx([100 / 255] * 3, abs=0.005)


def test_other_modes_are_refused(tmp_path: Path) -> None:
    Image.new("LAB", (SIZE, SIZE)).save(tmp_path / "a.tif")
    with pytest.raises(TaskError, match=r"a.tif: has pixels of mode LAB .*: save 8 or 16 bits"):
        read(tmp_path / "a.tif")


# Transparency: value * alpha + ground * (1 - alpha)


@pytest.mark.parametrize(("background", "ground"), [("white", 255), ("black", 0)])
@pytest.mark.parametrize("mode", ["LA", "RGBA", "PNG P", "GIF", "WEBP"])
def test_transparent_pixels_are_laid_on_the_ground(tmp_path: Path, mode: str, background: str, ground: int) -> None:
    form = Form(SIZE, 3, background)
    path = tmp_path / "a.png"
    alpha = 0 if mode == "GIF" else 64
    if mode in ("PNG P", "GIF"):
        image = Image.new("P", (SIZE, SIZE), 1)
        image.putpalette([0, 0, 0, 100, 100, 100])
        if mode == "GIF":
            path = tmp_path / "a.gif"
            image.save(path, transparency=1)
        else:
            image.save(path, transparency=bytes([255, alpha]))
    elif mode == "WEBP":
        path = tmp_path / "a.webp"
        Image.new("RGBA", (SIZE, SIZE), (100, 100, 100, alpha)).save(path, lossless=True, exact=True)
    else:
        color = (100, alpha) if mode == "LA" else (100, 100, 100, alpha)
        Image.new(mode, (SIZE, SIZE), color).save(path)
    expected = (100 * alpha + ground * (255 - alpha)) / 255 / 255
    assert uniform(read(path, form)) == pytest.approx([expected] * 3, abs=1 / 255)
    assert said(path, form) == (f"transparent pixels are laid on {background}: {path}",)


def test_an_opaque_channel_changes_nothing_and_is_not_worth_a_word(tmp_path: Path) -> None:
    Image.new("RGBA", (SIZE, SIZE), (10, 20, 30, 255)).save(tmp_path / "a.png")
    assert uniform(read(tmp_path / "a.png", COLOR)) == [10 / 255, 20 / 255, 30 / 255]
    assert said(tmp_path / "a.png", COLOR) == ()


@pytest.mark.parametrize(("extra", "value"), [(1, 25), (2, 100)])
def test_alpha_of_tiff_files_may_be_multiplied_in_already(tmp_path: Path, extra: int, value: int) -> None:
    # A gray of 100 at alpha 64: stored as it is, or as 100 * 64 / 255 = 25.
    expected = (100 * 64 + 255 * 191) / 255 / 255
    gray = tiff(tmp_path / "la.tif", bytes([value, 64]) * SIZE * SIZE, [8, 8], extra=extra)
    assert uniform(read(gray)) == pytest.approx([expected], abs=2 / 255)
    color = tiff(tmp_path / "rgba.tif", bytes([value] * 3 + [64]) * 64, [8] * 4, photometric=2, extra=extra)
    assert uniform(read(color, COLOR)) == pytest.approx([expected] * 3, abs=2 / 255)


def test_a_transparent_colour_is_one_in_the_depth_of_the_file(tmp_path: Path) -> None:
    # Four pixels a byte: 3 is transparent, 2 (170 of 255) is not.
    two = png(tmp_path / "2.png", 2, 0, bytes([0b11101110, 0b11101110]), chunk(b"tRNS", struct.pack(">H", 3)))
    assert read(two, Form(SIZE, 1, "black"))[0, 0].tolist() == [0, 170] * 4
    eight = png(tmp_path / "8.png", 8, 0, bytes([7, 9] * 4), chunk(b"tRNS", struct.pack(">H", 7)))
    assert read(eight)[0, 0].tolist() == [255, 9] * 4
    row = struct.pack(">2H", 7, 13107) * 4
    sixteen = png(tmp_path / "16.png", 16, 0, row, chunk(b"tRNS", struct.pack(">H", 7)))
    assert read(sixteen)[0, 0].tolist() == pytest.approx([1, 0.2] * 4)
    assert said(sixteen) == (f"transparent pixels are laid on white: {sixteen}",)
    color = png(tmp_path / "c.png", 8, 2, bytes([7, 7, 7, 9, 9, 9] * 4), chunk(b"tRNS", struct.pack(">3H", 7, 7, 7)))
    assert read(color, COLOR)[2, 0].tolist() == [255, 9] * 4


def test_a_transparent_colour_of_sixteen_bits_is_refused(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", 16, 2, bytes(6) * SIZE, chunk(b"tRNS", bytes(6)))
    with pytest.raises(TaskError, match=r"a.png: has a transparent colour of 16 bits: save it with an alpha channel"):
        read(path, COLOR)


# Orientation and frames

UPRIGHT = np.zeros((SIZE, SIZE), np.uint8)
UPRIGHT[:4, :4] = 250  # bright at the top left
UPRIGHT[:4, 4:] = 100  # gray at the top right
# How a camera stores what is upright, by orientation (EXIF 2.32, table 6).
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", list(STORED))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "16.png", "16.tif"])
def test_images_are_turned_upright_once(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.ascontiguousarray(STORED[orientation])
    deep = name.startswith("16")
    image = Image.fromarray(stored.astype(np.uint16) * 257 if deep else stored)
    more: dict[str, Any] = {"quality": 100} if name == "a.jpg" else {"lossless": True} if name == "a.webp" else {}
    image.save(tmp_path / name, exif=exif, **more)
    found = read(tmp_path / name)[0].astype(float) * (255 if deep else 1)
    np.testing.assert_allclose(found, UPRIGHT, atol=2)


def test_of_several_frames_the_first_is_taken_and_it_is_said(tmp_path: Path) -> None:
    frames = [Image.new("L", (SIZE, SIZE), shade) for shade in (51, 255)]
    for name in ("a.gif", "a.tif", "a.png", "a.webp"):
        more = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **more)
        assert uniform(read(tmp_path / name)) == pytest.approx([0.2], abs=0.005)
        assert said(tmp_path / name) == (f"of several frames or pages the first is taken: {tmp_path / name}",)


def test_the_same_is_said_once_with_how_often(tmp_path: Path) -> None:
    remarks = Remarks()
    for number in range(3):
        Image.new("RGBA", (SIZE, SIZE)).save(tmp_path / f"{number}.png")
        read_image(tmp_path / f"{number}.png", COLOR, remarks)
    assert remarks.lines() == (f"transparent pixels are laid on white: {tmp_path / '0.png'} and 2 more",)


# What is no image


def test_devices_pipes_and_folders_are_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe", "zero", "folder"):
        with pytest.raises(TaskError, match=rf"{name}.png: is a folder, device or pipe: name a regular file"):
            read(tmp_path / f"{name}.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TaskError, match=r"gone.png: no such file: check the path"):
        read(tmp_path / "gone.png")


def test_a_file_too_large_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(10**9 + 1)  # takes no room on the disk
    with pytest.raises(TaskError, match=r"a.png: has 1,000,000,001 bytes, at most 1,000,000,000 are read"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("size", [10_000, 60_000])
def test_an_image_that_unpacks_to_very_much_is_refused(tmp_path: Path, size: int) -> None:
    path = png(tmp_path / "a.png", 1, 0, b"", size=size)  # its head alone is true
    with pytest.raises(TaskError, match=r"a.png: has more than 89,478,485 pixels: make it smaller"):
        read(path)


def test_damaged_files_and_files_of_other_formats_are_named(tmp_path: Path) -> None:
    whole = png(tmp_path / "a.png", 8, 0, bytes(SIZE)).read_bytes()
    cases = {
        "cut.png": whole[:45],
        "text.png": b"hello",
        "empty.png": b"",
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n",
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TaskError, match=rf"{name}: is not a readable image \(.*\): remove or replace it"):
            read(tmp_path / name)


def test_the_formats_are_those_that_are_installed() -> None:
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)
