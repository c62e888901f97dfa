"""Encoders: the same vector of a value whoever asks and whatever is beside it; another encoder is refused."""

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raydc.api import plugins
from raydc.core.settings import build
from raydc.data import DataError, DataSettings, Source, encoders, open_source
from raydc.data.encoders import ENCODERS, LIBRARIES, Encoder, EncoderError
from raydc.data.encoding import Encoding


class Means(Encoder):
    """Of a picture the mean of each channel, and 1."""

    takes = "picture"
    version, digest, width, size, batch = "means 1", "0" * 64, 4, 8, 3

    def vectors(self, values: np.ndarray) -> np.ndarray:
        return np.column_stack([values.mean((2, 3)) / 255, np.ones(len(values))])


class Lengths(Encoder):
    """How many letters and words a text has."""

    takes = "text"
    version, digest, width, batch = "lengths 1", "1" * 64, 2, 4

    def vectors(self, values: list[str]) -> np.ndarray:
        return np.array([[len(text), len(text.split())] for text in values], float)


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    plugins.encoder("means")(Means)
    plugins.encoder("lengths")(Lengths)
    yield
    ENCODERS.forget("means")
    ENCODERS.forget("lengths")


def at(path: Path | str, **settings: object) -> Source:
    return open_source(build(DataSettings, {"path": str(path), **settings}, at="data"))


def rows(source: Source) -> np.ndarray:
    return np.concatenate([source.read(piece).x for piece in source.pieces])


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


TEXTS = ["The cat sat on the mat.", "A dog and a cat sat together.", "Stocks fell as the bank raised rates.", ""]


def test_static_vectors_are_near_for_like_texts_and_do_not_depend_on_the_others() -> None:
    encoder = encoders.load("wordllama")
    assert (
        encoders.load("wordllama") is encoder
        and encoder.digest[:8] == "4d243a4b"
        and "wordllama 0.4" in encoder.version
    )
    x = encoders.in_batches(encoder, TEXTS)
    assert x.shape == (4, 256) and x.dtype == np.float32 and not x[3].any()
    np.testing.assert_allclose(np.linalg.norm(x[:3], axis=1), 1, rtol=1e-6)
    assert x[0] @ x[1] > 0.4 > 0.2 > abs(x[0] @ x[2])
    assert encoders.in_batches(encoder, TEXTS[1:2]).tobytes() == x[1:2].tobytes()
    assert np.isfinite(encoders.in_batches(encoder, ["word " * 100_000])).all()


def test_pictures_have_the_same_vector_alone_as_among_others_and_other_weights_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = encoders.load("efficientnet-lite0")
    noise = np.random.default_rng(0).integers(0, 255, (3, 224, 224), np.uint8)
    slope = np.broadcast_to(np.arange(224, dtype=np.uint8), (3, 224, 224))
    pictures = np.stack([slope, slope // 2 + 60, noise])
    x = encoders.in_batches(encoder, pictures)
    assert x.shape == (3, 1280) and encoder.size == 224
    assert x[0] @ x[1] > x[0] @ x[2] + 0.1
    assert encoders.in_batches(encoder, pictures[1:2]).tobytes() == x[1:2].tobytes()
    monkeypatch.setattr("raydc.data.encoders.efficientnet.SHA256", "0" * 64)
    from raydc.data.encoders.efficientnet import EfficientNetLite0

    with pytest.raises(EncoderError, match=r"has the sha256 57934424\w+, expected 0+; install .* anew"):
        EfficientNetLite0()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wordlama", "did you mean wordllama"),
        ("timm/resnet18", r"timm is missing .*raydc\[timm\]"),
        ("torchvision/resnet18", r"torchvision.* is missing .*raydc\[torchvision\]"),
        ("transformers/some/model", r"transformers is missing .*raydc\[transformers\]"),
        ("sentence-transformers/some", r"sentence_transformers is missing .*raydc\[sentence-transformers\]"),
        ("json:dumps", "--allow-code json:dumps"),
    ],
)
def test_what_cannot_be_had_is_named_with_what_to_do(name: str, said: str) -> None:
    with pytest.raises(EncoderError, match=said):
        encoders.load(name)


def test_a_library_that_finds_no_weights_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str) -> Encoder:
        raise OSError("no connection")

    monkeypatch.setitem(LIBRARIES, "timm", offline)
    with pytest.raises(EncoderError, match="timm cannot load 'resnet18': no connection"):
        encoders.load("timm/resnet18")


def bomb() -> bytes:
    data = bytearray(file_of(Image.new("RGB", (8, 8))))
    data[16:24] = (40_000).to_bytes(4, "big") * 2  # the header alone says how large it is
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def animated() -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return file_of(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


RED = (1, 0, 0)
PICTURES: dict[str, tuple[bytes, tuple[int, ...] | str]] = {
    "plain.png": (file_of(Image.new("RGB", (30, 20), "red")), RED),
    "cmyk.jpg": (file_of(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100), RED),
    "sixteen.png": (file_of(Image.fromarray(np.full((9, 9), 65535, np.uint16))), (1, 1, 1)),
    "animated.webp": (animated(), RED),
    "truncated.jpg": (file_of(Image.effect_noise((64, 64), 90), "JPEG")[:-400], "cannot be decoded"),
    "gigapixel.png": (bomb(), "more than the 67,108,864 pixels"),
    "empty.png": (b"", "no picture in it"),
}


def test_pictures_of_all_kinds_are_encoded_and_broken_ones_are_said_by_path(tmp_path: Path) -> None:
    for name, (data, _) in PICTURES.items():
        (tmp_path / name).write_bytes(data)
    source = at(tmp_path, encoder="means")
    block = source.read(source.pieces[0])
    assert source.columns == ("image",) and source.name_of(2) == "image[2]" and source.shape == (4,)
    for i, name in enumerate(block.ids):
        expected = PICTURES[name][1]
        if isinstance(expected, str):
            assert source.file_of(source.pieces[0], i) == str(tmp_path / name) and expected in block.broken[i][1]
        else:
            vector = np.array([*expected, 1.0])
            np.testing.assert_allclose(block.x[i], vector / np.linalg.norm(vector), atol=0.02)


def test_bytes_in_a_column_are_the_same_pictures_as_files(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    good = {name: data for name, (data, expected) in PICTURES.items() if not isinstance(expected, str)}
    for name, data in good.items():
        (tmp_path / "files" / name).write_bytes(data)
    folder = at(tmp_path / "files", encoder="means")
    table = pa.table({"photo": [good[name] for name in folder.read(folder.pieces[0]).ids], "n": range(len(good))})
    pq.write_table(table, tmp_path / "rows.parquet")
    source = at(tmp_path / "rows.parquet", encoder="means")
    assert source.columns == ("photo",) and any("does not take it: n" in note for note in source.notes)
    assert rows(source).tobytes() == rows(folder).tobytes()
    assert source.encoding is not None and source.encoding.rows(table.to_pandas()).tobytes() == rows(folder).tobytes()
    with pytest.raises(DataError, match=r"row 1, photo: no picture in it"):
        source.encoding.rows({"photo": [good["plain.png"], b"nothing"]})
    again = at(tmp_path / "files").settings.with_encoding(source.encoding)
    assert rows(open_source(again)).tobytes() == rows(folder).tobytes()


def test_columns_of_texts_are_encoded_and_others_only_where_they_are_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"body": [*TEXTS[:3], "  ", None], "kind": list("aabba"), "n": [1.0, 2, 3, 4, 5]})
    path = tmp_path / "rows.jsonl"
    frame.to_json(path, orient="records", lines=True)
    alone = at(path, encoder="lengths", types="body=text")
    assert alone.columns == ("body",) and any("without a word, and so at 0: 1 text" in note for note in alone.notes)
    x = rows(alone)
    assert not x[3:].any() and np.isclose(x[0, 1] / x[0, 0], 6 / 23)
    mixed = at(path, encoder="lengths", columns="body,kind,n", types="body=text")
    assert mixed.n_features == 2 + 3 + 1 and rows(mixed)[:, :2].tobytes() == np.ascontiguousarray(x).tobytes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"encoder": "means"}, "means takes pictures, and .* has no column of them"),
        ({"encoder": "lengths", "columns": "n"}, "lengths takes texts, and .* has no column of them"),
        ({"columns": "photo"}, "bytes are pictures, where --data.encoder names what encodes them"),
        ({"types": "photo=picture"}, "column photo holds bytes; pictures become numbers by an encoder"),
        ({"encoder": "lengths", "types": "photo=text"}, "photo in .* is picture, which cannot be taken for a text"),
    ],
)
def test_an_encoder_and_columns_that_do_not_go_together_are_refused(
    settings: dict[str, str], said: str, tmp_path: Path
) -> None:
    columns = {"n": [1.0, 2.0], "photo": [b"a", b"b"]}
    if settings == {"encoder": "means"}:
        del columns["photo"]
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=said):
        at(tmp_path / "rows.parquet", **settings)


def test_vectors_arrays_and_folders_refuse_an_encoder_that_has_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURES["plain.png"][0])
    for path, settings, said in [
        ("digits", {"encoder": "means"}, "is an array; leave them out"),
        (tmp_path, {"encoder": "lengths"}, "lengths takes texts, and .* holds pictures"),
        (tmp_path, {"encoder": "means", "shape": "8,8"}, "an encoder brings the pictures .* to its own"),
    ]:
        with pytest.raises(DataError, match=said):
            at(path, **settings)


@pytest.mark.parametrize("other", [{"digest": "2" * 64}, {"version": "lengths 2"}], ids=["weights", "version"])
def test_an_encoding_holds_its_encoder_and_refuses_another(
    other: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pd.DataFrame({"body": TEXTS}).to_csv(tmp_path / "rows.csv", index=False)
    found = at(tmp_path / "rows.csv", encoder="lengths", types="body=text").encoding
    assert found is not None
    again = Encoding.of(found.files())
    assert again == found and again.encoders[0].version == "lengths 1" and again.encoders[0].digest == "1" * 64
    assert again.rows({"body": TEXTS[:2]}).tobytes() == found.rows({"body": TEXTS[:2]}).tobytes()
    plugins.encoder("lengths")(type("Changed", (Lengths,), other))
    with pytest.raises(
        EncoderError, match=r"the encoder lengths is lengths .*trained on vectors of lengths 1 .*train anew"
    ):
        again.rows({"body": TEXTS})


def test_an_encoder_that_gives_something_else_is_refused() -> None:
    plugins.encoder("lengths")(type("Wrong", (Lengths,), {"width": 3}))
    with pytest.raises(EncoderError, match=r"Wrong: expected vectors \(4, 3\) of 4 values, got \(4, 2\)"):
        encoders.in_batches(encoders.load("lengths"), TEXTS)
    plugins.encoder("means")(lambda: 3)
    with pytest.raises(EncoderError, match="to give an Encoder, got 3"):
        encoders.load("means")
    with pytest.raises(ValueError, match="raydc has a encoder 'wordllama' itself"):
        plugins.encoder("wordllama")
