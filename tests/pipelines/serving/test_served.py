"""Bytes in, bytes out: what a served model says of rows is what batch assignment says of them, to the bit."""

import base64
import io
import json
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raydc.core.storage import Store
from raydc.data import DataSettings
from raydc.data.inputs import table_of
from raydc.data.source import DataError, UnusableRow
from raydc.pipelines.assign import assign, read
from raydc.pipelines.serving.payloads import ARROW, JSON, Question, Reply, rows_in
from raydc.pipelines.serving.served import Served, answer, load, prepare
from raydc.pipelines.serving.settings import Serving
from raydc.training import model_files
from raydc.training.labels import Asked, Rename, Revision
from raydc.training.model import TRUST, ClusteringModel
from raydc.training.model_files import ModelError
from tests.pipelines.serving.asking import json_of, stream, table_in
from tests.support import run_cases

SERVING = Serving(model="a folder", request_rows=1000)


def mixed(rows: int) -> pa.Table:
    """Numbers, categories, truth values, dates and texts, some of them missing."""
    draw = np.random.default_rng(3)
    sometimes = draw.random(rows) < 0.1
    start = datetime(2024, 1, 1, 12)
    return pa.table(
        {
            "amount": pa.array(1e6 + draw.normal(size=rows), mask=sometimes),
            "count": pa.array(draw.integers(0, 9, rows), pa.int32()),
            "city": pa.array([None if i % 11 == 0 else ("Oslo", "Rome", "Lima")[i % 3] for i in range(rows)]),
            "paid": pa.array([i % 5 == 0 for i in range(rows)]),
            "day": pa.array([start + timedelta(hours=7 * i) for i in range(rows)], pa.timestamp("us")),
            "note": [f"the {('late', 'early', 'good')[i % 3]} parcel number {i} arrived in time" for i in range(rows)],
        }
    )


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    data = run_cases.write(mixed(200), folder / "rows.parquet")
    settings = {"data.label_column": None, "data.missing": "impute", "data.types": "note=text"}
    return run_cases.finished(folder / "run", data, **run_cases.KMEANS, **settings), data


def served(run: str) -> Served:
    return load(SERVING.model_copy(update={"model": run}))


def replies(of: Served, *questions: Question) -> list[Reply]:
    """As a replica makes them."""
    prepared = [prepare(question, of, SERVING) for question in questions]
    assert not any(isinstance(one, Reply) for one in prepared), prepared
    return answer(prepared)


def refused(of: Served, body: object, form: str = JSON, **wanted: object) -> dict[str, object]:
    """What is said of a question that cannot be answered."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = prepare(Question(data, form, JSON, **wanted), of, SERVING)
    assert isinstance(reply, Reply) and not reply.model
    said = json_of(reply.body)
    assert said["status"] == reply.status
    return said


def in_json(table: pa.Table) -> bytes:
    return json.dumps({"rows": table.to_pylist()}, default=datetime.isoformat).encode()


@pytest.mark.parametrize("wanted", [JSON, ARROW])
@pytest.mark.parametrize("asked", [Asked(), Asked(2, 0.2)], ids=["as they are", "level, outliers"])
def test_answers_are_those_of_assign_whatever_the_form_and_whoever_asks_beside(mixed_run, tmp_path, wanted, asked):
    run, data = mixed_run
    assign(run, DataSettings(path=data), str(tmp_path / "out"), asked=asked)
    expected = pa.concat_tables(read(str(tmp_path / "out")))
    of, rows = served(run), mixed(200)
    parts = [rows.slice(0, 1), rows.slice(1, 120), rows.slice(121, 0), rows.slice(121)]
    asking = {"wanted": wanted, "level": asked.level, "outliers": asked.outliers}
    others = Question(in_json(rows), JSON, JSON)
    for form, body in ((JSON, in_json), (ARROW, stream)):
        found = replies(of, *(Question(body(part), form, **asking) for part in parts), others)[:-1]
        assert [reply.rows for reply in found] == [1, 120, 0, 79] and {reply.model for reply in found} == {run}
        if wanted == ARROW:
            table = pa.concat_tables(table_in(reply.body).replace_schema_metadata() for reply in found)
        else:
            said = [json_of(reply.body) for reply in found]
            assert {one["level"] for one in said} == {asked.level}
            told = [row for one in said for row in one["rows"]]
            table = pa.Table.from_pylist(told).select(["cluster", *TRUST])
            schema = pa.schema([("cluster", pa.int64()), *((name, pa.float32()) for name in TRUST)])
            table = table.cast(schema)
            assert [row.get("outlier") for row in told] == [
                None if asked.outliers is None else distance > 0.8 for distance in expected["distance"].to_pylist()
            ]
        for name in ("cluster", *TRUST):
            assert table[name].combine_chunks().equals(expected[name].combine_chunks()), name


def test_a_row_says_its_cluster_s_name_and_all_memberships(table_run, tmp_path):
    model = ClusteringModel.load(f"{table_run}/model")
    model.renamed = model.labels.edited(Revision(of="it", edits=(Rename(cluster=1, name="boots"),)))
    of, rows = Served(model, "models:/a/3"), run_cases.table(20)
    found = json_of(replies(of, Question(in_json(rows), JSON, JSON, memberships=True))[0].body)
    assert found["model"] == "models:/a/3" and found["clusters"] == [0, 1, 2]
    for row in found["rows"]:
        assert row["name"] == ("boots" if row["cluster"] == 1 else None) and row["agreement"] is None
        assert np.float32(row["membership"]) == np.float32(row["memberships"][row["cluster"]])
    table = table_in(replies(of, Question(stream(rows), ARROW, ARROW, memberships=True))[0].body)
    assert json.loads(table.schema.metadata[b"raydc"]) == {name: found[name] for name in found if name != "rows"}
    assert table.to_pylist() == found["rows"]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.astype(np.float32),
        lambda x: np.repeat(x[:1], 5, axis=0),
        lambda x: x * np.array([1, 1, 1, 0]),
        lambda x: x + np.array([1e6, 0, 0, 0]),
    ],
    ids=["float64", "float32", "the same row", "a constant column", "far off"],
)
def test_rows_by_position_are_those_by_name(table_run, change):
    of, x = served(table_run), change(np.random.default_rng(5).normal(4, 3, (30, 4)))
    named = pa.table(dict(zip(run_cases.COLUMNS, x.T, strict=True)))
    bodies = (
        json.dumps({"rows": x.tolist()}).encode(),
        in_json(named),
        in_json(named.append_column("z", [["q"] * len(x)])),
    )
    found = [reply.body for reply in replies(of, *(Question(body, JSON, JSON) for body in bodies))]
    assert found[0] == found[1] == found[2]
    expected = of.model.assign(x)
    assert [row["cluster"] for row in json_of(found[0])["rows"]] == expected.clusters.tolist()


def test_pictures_are_decoded_as_those_of_a_folder(image_run):
    of, draw = served(image_run), np.random.default_rng(1)
    pixels = draw.integers(0, 256, (3, 4, 4), dtype=np.uint8)
    files = []
    for one in pixels:
        Image.fromarray(one).save(file := io.BytesIO(), "png")
        files.append(base64.b64encode(file.getvalue()).decode())
    bodies = [json.dumps({"pictures": files}).encode(), json.dumps({"rows": pixels[:, None].tolist()}).encode()]
    one, other = replies(of, *(Question(body, JSON, JSON) for body in bodies))
    assert one.body == other.body
    said = refused(of, {"pictures": [files[0], "bm8gcGljdHVyZQ=="]})
    assert said["row"] == 1 and "cannot be decoded" in said["detail"]
    assert refused(of, {"pictures": [files[0], files[1], "%"]})["row"] == 2
    assert refused(of, {"pictures": [3]})["row"] == 0


def test_pictures_for_a_model_that_encodes_a_column_of_them_are_files_whatever_the_form():
    text, files = base64.b64encode(b"a file").decode(), [b"a file"] * 2
    column = SimpleNamespace(name="scan", stored="picture")
    model: Any = SimpleNamespace(encoding=SimpleNamespace(names=("scan",), columns=(column,)), shape=(3,), columns=())
    model.rows = lambda data: table_of(data)["scan"].tolist()
    for body in ({"pictures": [text] * 2}, {"rows": [{"scan": text}] * 2}):
        assert rows_in(Question(json.dumps(body).encode(), JSON, JSON), model, 9, 99) == files
    assert rows_in(Question(stream(pa.table({"scan": files})), ARROW, JSON), model, 9, 99) == files
    with pytest.raises(UnusableRow) as found:
        rows_in(Question(json.dumps({"rows": [{"scan": text}, {"scan": "%"}]}).encode(), JSON, JSON), model, 9, 99)
    assert (found.value.row, found.value.column) == (1, "scan")
    model.encoding.names = ("scan", "age")
    with pytest.raises(DataError, match="scan, age"):
        rows_in(Question(json.dumps({"pictures": [text]}).encode(), JSON, JSON), model, 9, 99)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        ([[1, 2, 3, 4]], "expected .*got list"),
        ({}, "got nothing"),
        ({"rows": [], "pictures": []}, "got rows, pictures"),
        ({"rows": {"length": [1]}}, "rows: expected a list, got dict"),
        ({"rows": [[1, 2, 3]]}, r"shape \(1, 3\), expected \[rows, 4\]"),
        ({"rows": [[1, 2, 3, "4"]]}, "expected numbers, got text such as"),
        ({"rows": [[1, 2, 3, 4], [1]]}, "rows of equal length"),
        ({"rows": ["1,2,3,4"]}, "expected"),
        ({"rows": [None]}, "expected"),
        ({"pictures": ["aa"]}, "takes rows of 4, not pictures"),
    ],
)
def test_bodies_that_are_no_rows_are_refused_in_words(table_run, body, said):
    found = refused(served(table_run), body)
    assert found["status"] == 422 and "row" not in found
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found["detail"])


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), -1e300, 10**400, -(10**400)])
def test_the_first_row_that_cannot_be_used_is_named_with_its_column(table_run, mixed_run, bad):
    good = run_cases.table(5).select(run_cases.COLUMNS).to_pylist()
    rows = [row | ({"width": bad} if i == 3 else {}) for i, row in enumerate(good)]
    of = served(table_run)
    for body in ({"rows": rows}, {"rows": [[*row.values()] for row in rows]}):
        said = refused(of, body)
        assert (said["status"], said["row"], said["column"]) == (422, 3, "width")
    said = refused(of, {"rows": [good[0], {"length": 1}]})
    assert (said["row"], said["column"]) == (1, "width") and "lacks column" in said["detail"]
    assert refused(of, {"rows": [good[0], [1, 2, 3, 4]]})["row"] == 1
    if bad is not None and bad == bad:  # what is missing is imputed there
        rows = [row | ({"amount": bad} if i == 3 else {}) for i, row in enumerate(mixed(5).to_pylist())]
        assert refused(served(mixed_run[0]), json.dumps({"rows": rows}, default=str).encode())["status"] == 422


def test_a_model_that_encodes_columns_takes_no_encoded_rows(mixed_run):
    of = served(mixed_run[0])
    assert "as an object with amount" in refused(of, {"rows": [[0.0] * of.model.n_features]})["detail"]
    assert "column count" in refused(of, stream(mixed(3).set_column(1, "count", [["a", "b", "c"]])), ARROW)["detail"]
    assert "lacks 1 of" in refused(of, stream(mixed(3).drop_columns("note")), ARROW)["detail"]


def test_limits_and_what_the_model_cannot_be_asked(table_run):
    of, many = served(table_run), run_cases.table(1001)
    assert refused(of, in_json(many))["status"] == refused(of, stream(many), ARROW)["status"] == 413
    for wanted in ({"level": 4}, {"level": 0}, {"outliers": 1.5}):
        assert refused(of, in_json(run_cases.table(3)), **wanted)["title"] == "the model cannot be asked that"
    assert refused(of, b"not arrow", ARROW)["status"] == 422


def test_a_model_whose_encoder_is_another_one_is_not_taken_up(tmp_path):
    texts = [f"the {('late', 'early', 'good')[i % 3]} parcel" for i in range(60)]
    data = run_cases.write(pa.table({"note": texts}), tmp_path / "rows.parquet")
    settings = {"data.label_column": None, "data.types": "note=text", "data.encoder": "wordllama"}
    run = run_cases.finished(tmp_path / "run", data, **run_cases.KMEANS, **settings)
    assert json_of(replies(served(run), Question(b'{"rows": [{"note": "a late one"}]}', JSON, JSON))[0].body)["rows"]
    place = Store(f"{run}/model")
    other = json.loads(place.read_bytes("encoding.json"))
    other["columns"][0]["digest"] = "0" * 64
    model_files.amend(place, {"encoding.json": json.dumps(other).encode()})
    with pytest.raises(ModelError, match=r"cannot answer: .*wordllama.* install that, or train anew"):
        served(run)


def test_what_a_client_has_to_know(table_run, mixed_run, image_run):
    about = served(table_run).about()
    assert about["columns"] == dict.fromkeys(run_cases.COLUMNS, "number") and about["shape"] == [4]
    assert [one["id"] for one in about["clusters"]] == [0, 1, 2] and about["outliers"] is True
    about = served(mixed_run[0]).about()
    assert about["columns"]["day"] == "date" and about["shape"] is None
    assert served(image_run).about()["shape"] == [1, 4, 4]
    assert served(table_run).takes == served(table_run).takes != served(image_run).takes != served(mixed_run[0]).takes
