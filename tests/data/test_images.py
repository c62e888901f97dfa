"""Pictures become rows of pixels, whatever their format, size and mode; what cannot be decoded is said by row."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydc.core.settings import build
from raydc.data import DataError, DataSettings, Source, open_source, profile_rows, read_labels
from raydc.data.decoding import pixels

CORNERS = np.zeros((40, 40), np.uint8)
CORNERS[:20, :20] = 200


def at(path: Path, **settings: object) -> Source:
    return open_source(build(DataSettings, {"path": str(path), **settings}, at="data"))


def rows(source: Source) -> np.ndarray:
    return np.concatenate([source.read(piece).x for piece in source.pieces]).reshape(-1, *source.shape)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey() -> Image.Image:
    return Image.fromarray(CORNERS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_formats_and_sizes_are_brought_together(kind: str, tmp_path: Path) -> None:
    suffix = f".{kind.lower()}"
    for size in (40, 64, 333):
        large = grey().resize((size, size)).convert("RGB" if kind == "WEBP" else "L")
        (tmp_path / f"{size:03d}{suffix}").write_bytes(encoded(large, kind))
    source = at(tmp_path, shape="8,8")
    assert source.shape == ((3 if kind == "WEBP" else 1), 8, 8) and source.dtype == np.uint8
    expected = np.zeros((8, 8))
    expected[:4, :4] = 200
    off = np.abs(rows(source).astype(float) - expected)
    assert off.mean() < 6 and off[..., [0, 1, 6, 7]][..., [0, 1, 6, 7], :].max() < 12
    assert [*source.read(source.pieces[0]).ids] == [f"{size:03d}{suffix}" for size in (40, 64, 333)]


MODES = {
    "16 bits": Image.fromarray(CORNERS.astype(np.uint16) * 257),
    "palette": grey().convert("P"),
    "one bit": grey().point(lambda value: 255 * (value > 0)).convert("1"),
    "grey with alpha": grey().convert("LA"),
    "colour with alpha": grey().convert("RGBA"),
    "floats": Image.fromarray(CORNERS.astype(np.float32) / 255),
}


@pytest.mark.parametrize("name", MODES)
def test_modes_are_brought_to_eight_bits(name: str) -> None:
    data = encoded(MODES[name], "TIFF" if name == "floats" else "PNG")
    for channels in (1, 3):
        found = pixels(data, channels, 40, 40)
        expected = CORNERS if name != "one bit" else 255 * (CORNERS > 0)
        np.testing.assert_allclose(found, np.broadcast_to(expected, (channels, 40, 40)), atol=1)


def test_what_is_transparent_lies_on_white_and_cameras_are_held_upright() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (pixels(encoded(clear), 3, 8, 8) == 255).all()
    turned = Image.Exif()
    turned[0x0112] = 6
    found = pixels(encoded(grey(), "JPEG", exif=turned, quality=100), 1, 40, 40)
    np.testing.assert_allclose(found[0], np.rot90(CORNERS, -1), atol=60)
    assert found[0, 5, 35] > 150 and found[0, 5, 5] < 50
    cmyk = encoded(grey().convert("CMYK"), "JPEG")
    assert pixels(cmyk, 3, 40, 40)[0, 5, 5] > 150
    frames = encoded(grey(), "WEBP", save_all=True, append_images=[Image.new("L", (40, 40))], lossless=True)
    assert pixels(frames, 1, 40, 40)[0, 5, 5] > 150


def test_what_cannot_be_decoded_is_said_by_path_and_may_be_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydc.data.decoding.MOST", 10_000)
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.png").write_bytes(encoded(grey()))
    (tmp_path / "dogs" / "cut.jpg").write_bytes(encoded(grey().resize((90, 90)), "JPEG")[:-300])
    (tmp_path / "dogs" / "huge.png").write_bytes(encoded(Image.new("L", (101, 100))))
    (tmp_path / "dogs" / "text.png").write_bytes(b"hello")
    with pytest.raises(DataError, match="3 of 11 rows cannot be used") as caught:
        profile_rows(at(tmp_path))
    for part in (
        "dogs/cut.jpg: cannot be decoded: ", "dogs/huge.png: cannot be decoded: 101 x 100 pixels, more than the 10,000",
        "dogs/text.png: no picture in it that can be read (PNG",
    ):  # fmt: skip
        assert part in str(caught.value)
    source = at(tmp_path, on_bad_row="drop", label_column="folder")
    found = profile_rows(source)
    labels = read_labels(source, found)
    assert found.rows == 8 and labels is not None and labels.tolist() == [0] * 4 + [1] * 4
    assert "32 x 32 pixels in grey" in "\n".join(source.notes)


@pytest.mark.parametrize("side", [10_000, 40_000])
def test_a_bomb_is_refused_by_its_header(side: int, tmp_path: Path) -> None:
    small = encoded(Image.new("L", (1, 1)))
    chunk = small[12:16] + 2 * side.to_bytes(4, "big") + small[24:29]
    (tmp_path / "a.png").write_bytes(small[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + small[33:])
    with pytest.raises(DataError) as caught:
        profile_rows(at(tmp_path))
    line = str(caught.value).splitlines()[1].strip()
    assert line.startswith(f"{tmp_path}/a.png: cannot be decoded: ")
    assert line.endswith("more than the 67,108,864 pixels that are decoded; make it smaller, or cut it into several")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": "a"}, "holds pictures, which have no columns"), ({"shape": "9"}, "expected height,width"),
        ({"types": "a=text"}, "holds pictures; leave them out"), ({"shape": "2,8,8"}, "1 or 3 channels, got 2"),
        ({"label_column": "name"}, "have folder alone"), ({"id_column": "name"}, "have path alone"),
    ],
)  # fmt: skip
def test_what_pictures_have_not_is_refused(settings: dict[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(grey()))
    with pytest.raises(DataError, match=message):
        at(tmp_path, **settings)
    assert at(tmp_path / "a.png").n_rows == 1


def test_a_picture_that_is_replaced_or_gone_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(grey()))
    before = at(tmp_path)
    (tmp_path / "a.png").write_bytes(encoded(grey().rotate(90)))
    assert at(tmp_path).fingerprint != before.fingerprint
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: cannot be read"):
        before.read(before.pieces[0])
