"""Columns that are no numbers become features of one unit, by rules that can be overridden, and the same everywhere."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from raydc.core.settings import SettingsError, build
from raydc.data import ArraySource, DataError, DataSettings, Source, open_source, opened, profile_rows, units
from raydc.data.encoding import Encoding

N = 300
RNG = np.random.default_rng(0)
WORDS = (
    ("goal", "match", "team", "player", "score", "league"),
    ("stock", "market", "bank", "price", "fund", "trade"),
    ("planet", "star", "orbit", "telescope", "moon", "galaxy"),
)
KIND = RNG.integers(3, size=N)
FRAME = pd.DataFrame(
    {
        "income": (20_000 + 15_000 * KIND + RNG.normal(0, 2_000, N)).round(2),
        "plan": np.array(["free", "basic", "pro"])[KIND],
        "active": KIND > 0,
        "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(KIND * 200 + RNG.integers(0, 100, N), unit="D"),
        "note": [" ".join(RNG.choice(WORDS[kind], 6)) for kind in KIND],
        "name": [f"person {i}" for i in range(N)],
        "state": "open",
        "nothing": pd.Series([None] * N, dtype="string"),
        "label": np.array(["a", "b", "c"])[KIND],
        "user_id": [f"u{i}" for i in range(N)],
    }
)
TAKEN = ("income", "plan", "active", "joined", "note")


def put(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)
    return path


def at(path: Path | str, **settings: object) -> Source:
    return open_source(build(DataSettings, {"path": str(path), **settings}, at="data"))


def rows(source: Source) -> np.ndarray:
    return np.concatenate([source.read(piece).x for piece in source.pieces])


def encoding(source: Source) -> Encoding:
    assert source.encoding is not None
    return source.encoding


def of(column: str, source: Source, x: np.ndarray) -> np.ndarray:
    """The features of one column."""
    coded = next(each for each in encoding(source).columns if each.name == column)
    return x[:, [encoding(source).features.index(name) for name in coded.features]]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return at(put(FRAME, tmp_path_factory.mktemp("table") / "a.parquet"))


def test_what_a_column_holds_decides_what_it_is_and_is_said(table: Source) -> None:
    assert table.columns == TAKEN
    kinds = {column.name: column.code.kind for column in encoding(table).columns}
    assert kinds == {"income": "number", "plan": "category", "active": "category", "joined": "date", "note": "text"}
    said = "\n".join(table.notes)
    for part in (
        "categories: plan (3), active (2)", "texts: note (18 words", "dates: joined (day, time of year, time of week)",
        "nearly each row, as names and keys have: name", "of one value in all rows: state", "labels: label",
        "ids: user_id", "without a value in any row: nothing", "--data.types NAME=category",
    ):  # fmt: skip
        assert part in said, said


def test_features_are_named_after_columns_and_have_one_unit(table: Source) -> None:
    x = rows(table)
    assert x.dtype == np.float32 and x.shape == (N, len(encoding(table).features)) == (N, table.n_features)
    assert [table.name_of(i) for i in range(5)] == ["income", "plan=basic", "plan=free", "plan=pro", "plan=(other)"]
    assert units.one_unit(profile_rows(table), table)
    assert of("income", table, x).std() == pytest.approx(1, abs=1e-4)
    joined = of("joined", table, x)
    assert joined[:, 0].var() == pytest.approx(1 / 3, abs=1e-4)
    np.testing.assert_allclose(np.square(joined[:, 1:]).sum(axis=1), 2 / 3, rtol=1e-5)
    assert of("note", table, x).var(axis=0).sum() == pytest.approx(1, abs=1e-4)
    plans = np.unique(of("plan", table, x), axis=0)
    apart = np.linalg.norm(plans[:, None] - plans[None], axis=2)
    np.testing.assert_allclose(apart, 1 - np.eye(3), atol=1e-6)
    assert "never change" not in "\n".join(profile_rows(table).notes)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "files", "frame"])
def test_every_way_in_gives_the_same_features(name: str, table: Source, tmp_path: Path) -> None:
    expected = rows(table)
    if name == "frame":
        shuffled = FRAME[list(TAKEN)[::-1]]
        for same in (
            shuffled,
            shuffled.to_dict("list"),
            pa.Table.from_pandas(shuffled),
            put(FRAME, tmp_path / "a.csv"),
        ):
            frame = pd.read_csv(same) if isinstance(same, Path) else same
            np.testing.assert_array_equal(encoding(table).rows(frame), expected)
        return
    if name == "files":
        for i, start in enumerate(range(0, N, 70)):
            put(FRAME[start : start + 70], tmp_path / f"{i}.csv")
    elif name == "a.csv.gz":
        (tmp_path / name).write_bytes(gzip.compress(FRAME.to_csv(index=False).encode()))
    else:
        put(FRAME, tmp_path / name)
    known = open_source(DataSettings(path=str(tmp_path)).with_encoding(table.encoding))
    np.testing.assert_array_equal(rows(known), expected)
    own = at(tmp_path)
    np.testing.assert_allclose(rows(own), expected, atol=1e-5)
    elsewhere = opened(own.settings, own.fingerprint)
    assert elsewhere.encoding == own.encoding
    np.testing.assert_array_equal(rows(elsewhere), rows(own))


def test_an_encoding_is_plain_files_and_comes_back_to_the_bit(table: Source) -> None:
    again = Encoding.of(encoding(table).files())
    assert again == encoding(table) and again.digest == encoding(table).digest
    np.testing.assert_array_equal(again.rows(FRAME), rows(table))
    assert Encoding.of(at(table.settings.path, missing="impute").encoding.files()) != again  # type: ignore[union-attr]


def test_a_new_category_has_its_own_place_and_a_missing_one_too(table: Source, tmp_path: Path) -> None:
    x = encoding(table).rows(FRAME[:4].assign(plan=["free", "new", None, "newer"]))
    plans = of("plan", table, x)
    assert np.linalg.norm(plans[0] - plans[1]) == pytest.approx(1)
    np.testing.assert_array_equal(plans[1], plans[3])
    source = at(put(FRAME.assign(plan=FRAME["plan"].where(FRAME.index % 5 > 0)), tmp_path / "a.csv"))
    plans = of("plan", source, rows(source))
    assert encoding(source).columns[1].features[-1] == "plan=(missing)"
    assert (plans[::5, -1] > 0).all() and (plans[1::5, -1] == 0).all()


def test_missing_numbers_are_bad_rows_or_the_mean_and_said_where_asked(tmp_path: Path) -> None:
    path = put(FRAME.assign(income=FRAME["income"].where(FRAME.index % 10 > 0)), tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"30 of 300 rows cannot be used:\n.*row 0, column income: null"):
        profile_rows(at(path))
    assert profile_rows(at(path, on_bad_row="drop")).rows == 270
    imputed = at(path, missing="impute")
    assert (of("income", imputed, rows(imputed))[::10] == 0).all() and profile_rows(imputed).rows == N
    told = at(path, missing="indicate")
    np.testing.assert_array_equal(of("income", told, rows(told))[:, 1], (FRAME.index % 10 == 0).astype(np.float32))
    assert "income (missing)" in encoding(told).features and "joined (missing)" not in encoding(told).features


def test_texts_are_scikit_learns_tf_idf_on_their_leading_directions(table: Source) -> None:
    tfidf = TfidfVectorizer(token_pattern=r"\w\w+").fit_transform(FRAME["note"])
    found = of("note", table, rows(table))
    directions = np.linalg.svd(tfidf.toarray(), full_matrices=False)[2][: found.shape[1]]
    expected = tfidf @ directions.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose((found @ found.T) / (found[0] @ found[0]), expected @ expected.T, atol=1e-5)


def test_documents_alone_are_clustered_apart_and_empty_ones_are_told(tmp_path: Path) -> None:
    frame = pd.DataFrame({"body": [*FRAME["note"], "", "?!"]})
    source = at(put(frame, tmp_path / "a.parquet"))
    x = rows(source)
    assert (x[-2:] == 0).all() and "without a word, and so at 0: 2 texts" in "\n".join(source.notes)
    centres = np.stack([x[:N][KIND == kind].mean(axis=0) for kind in range(3)])
    assert (((x[:N, None] - centres) ** 2).sum(axis=2).argmin(axis=1) == KIND).all()


def test_decisions_are_overridden_by_type(tmp_path: Path) -> None:
    frame = FRAME.assign(code=[f"{i % 4:02d}" for i in range(N)])
    source = at(put(frame, tmp_path / "a.csv"), columns="code,name,plan", types="code=category,name=category,plan=text")
    kinds = {column.name: column.code.kind for column in encoding(source).columns}
    assert kinds == {"code": "category", "name": "category", "plan": "text"}
    assert encoding(source).features[:5] == ("code=00", "code=01", "code=02", "code=03", "code=(other)")
    assert "name (100 most frequent of 300, the others alike)" in "\n".join(source.notes)
    assert "label" in at(tmp_path / "a.csv", types={"label": "category"}).columns


BAD = {
    "unknown column": ({"types": "plam=text"}, DataError, "data.types: .* no column plam; did you mean plan"),
    "unknown kind": ({"types": "plan=word"}, SettingsError, "expected NAME=KIND with a kind of number, category"),
    "text as number": ({"types": "plan=number"}, DataError, "plan in .* is text, which cannot be taken for a number"),
    "number as date": ({"types": "income=date"}, DataError, "income in .* is number, which cannot be taken for a date"),
    "names as text": ({"types": "user_id=text"}, DataError, "column user_id: no word is in two texts"),
    "nothing left": ({"columns": "nothing", "label_column": "nothing"}, DataError, "nothing is data.label_column too"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_a_column_cannot_be_is_said(what: str, table: Source) -> None:
    settings, error, message = BAD[what]
    with pytest.raises(error, match=message):
        at(table.settings.path, **settings)


def test_columns_of_names_alone_are_refused_and_arrays_have_no_types(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column to cluster; .* name: of another text in nearly each row"):
        at(put(FRAME[["name"]], tmp_path / "a.csv"))
    for settings in ({"types": ("a=text",)}, {"missing": "impute"}):
        with pytest.raises(DataError, match="is an array; leave them out"):
            ArraySource(np.eye(3), settings=build(DataSettings, {"path": "array", **settings}))


def test_rows_of_other_types_are_refused_by_column(table: Source) -> None:
    for change, message in (
        ({"income": "many"}, "column income: expected numbers, got text such as 'many'"),
        ({"joined": "soon"}, "column joined: .*such as 'soon', where date was trained on"),
        ({"income": np.nan}, "row 0, income: nan or null; 5 row"),
    ):
        with pytest.raises(DataError, match=message):
            encoding(table).rows(FRAME[:5].assign(**change))
    with pytest.raises(DataError, match="lacks 1 of 5 columns, such as plan"):
        encoding(table).rows(FRAME[:5].drop(columns="plan"))
    with pytest.raises(DataError, match="expected a table with columns income"):
        encoding(table).rows([1, 2])


def test_numbers_that_hold_a_text_now_and_then_are_told(tmp_path: Path) -> None:
    age = [str(i % 60) if i % 40 else "?" for i in range(N)]
    path = put(FRAME[["income"]].assign(age=age), tmp_path / "a.csv")
    said = "\n".join(at(path).notes)
    assert "column age is text, but 292 of its 300 values are numbers, and others such as '?' are not" in said
    assert encoding(at(path, null_values="?", missing="impute")).columns[1].code.kind == "number"


@pytest.mark.parametrize(("limit", "most"), [("COUNTED", 50), ("HELD", 500)])
def test_categories_without_number_are_counted_in_bounded_memory(
    limit: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"raydc.data.fitting.{limit}", most)
    monkeypatch.setattr("raydc.data.table.TOGETHER", 64)
    city = ["Oslo" if i % 3 == 0 else "Rome" if i % 3 == 1 else f"village {i}" for i in range(N)]
    source = at(
        put(pd.DataFrame({"city": city, "x": range(N)}), tmp_path / "a.parquet"), types="city=category,x=number"
    )
    code = encoding(source).columns[0].code
    assert code.kind == "category" and {"Oslo", "Rome"} <= set(code.levels) and len(code.levels) <= 50


def test_numbers_beside_texts_that_tell_nothing_stay_as_they_are(tmp_path: Path) -> None:
    sentences = [f"a{i} b{i} c{i} d{i}" for i in range(N)]
    source = at(put(FRAME[["income", "name", "active"]].assign(said=sentences), tmp_path / "a.csv"))
    assert source.encoding is None and source.columns == source.settings.columns == ("income", "active")
    np.testing.assert_array_equal(rows(source), FRAME[["income", "active"]].to_numpy(float))
    assert "of texts that share no word: said" in "\n".join(source.notes)


def test_numbers_alone_stay_as_they_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [True, False]}), tmp_path / "a.parquet")
    source = at(tmp_path)
    assert source.encoding is None and rows(source).tolist() == [[1, 1], [2, 0]]
