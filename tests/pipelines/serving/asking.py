"""A client of an ASGI application, without a network; bytes in the forms that requests have."""

import asyncio
import io
import json
from typing import Any

import pyarrow as pa

from raydc.pipelines.serving.payloads import JSON


def ask(
    application: Any,
    method: str,
    path: str,
    parts: list[bytes] | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request whose body comes in these parts."""
    path, _, query = path.partition("?")
    given = {"host": "localhost:8000", "content-type": JSON, **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    left = list(parts or [b""])
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message: Any) -> None:
        messages.append(message)

    asyncio.run(application(scope, receive, send))
    start, body = messages[0], b"".join(message.get("body", b"") for message in messages[1:])
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, body


def stream(table: pa.Table, **options: Any) -> bytes:
    """Arrow's stream format."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in table.to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]:
            writer.write_batch(batch)
    return sink.getvalue()


def table_in(body: bytes) -> pa.Table:
    """What an answer in Arrow holds."""
    with pa.ipc.open_stream(body) as reader:
        return reader.read_all()


def json_of(body: bytes) -> Any:
    """What an answer in JSON holds; numbers that JSON does not have are an error."""
    return json.loads(body, parse_constant=lambda name: 1 / 0)
