"""The HTTP face: routes, limits and their documentation, over whatever answers. It knows neither models nor Ray."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raydc.pipelines.serving.access import Access
from raydc.pipelines.serving.payloads import ARROW, JSON, PROBLEM, Form, Question, Reply, refusal
from raydc.pipelines.serving.settings import Serving

GONE = 499
"""Status, as others count it too, of a client that has left."""
SOON = {"Retry-After": "1"}
"""Header of an answer that may be had later."""


class Away(RuntimeError):
    """Nobody answers, in the time there is."""


class Answers(Protocol):
    """Whoever answers questions."""

    async def answer(self, question: Question) -> Reply:
        """The reply. Away if nobody gives one."""

    async def about(self) -> dict[str, Any]:
        """What there is to know of the model that answers. Away if there is none."""

    def count(self, route: str, status: int, seconds: float) -> None:
        """A request has ended."""


class Rows(BaseModel):
    """Rows as the model takes them, in JSON."""

    rows: list[dict[str, Any] | list[Any]] = Field(
        description="each an object with the model's columns by name (null: a missing value; others are passed over), "
        "or a list of numbers, for images channels x height x width",
        examples=[[{"age": 31, "city": "Oslo"}]],
    )


class Pictures(BaseModel):
    """Pictures for a model of pictures, in JSON."""

    pictures: list[str] = Field(description="PNG, JPEG, TIFF or WebP files in base64")


class AnsweredRow(BaseModel):
    """What the model says of a row, as `raydc assign` does."""

    cluster: int = Field(description="id; -1 belongs nowhere")
    name: str | None = Field(description="the cluster's name, where it has one")
    membership: float | None = Field(description="is it this cluster rather than another?")
    agreement: float | None = Field(description="share of the model's replicas that say the same; null without any")
    distance: float | None = Field(description="share of the cluster's training rows that are nearer to a centre")
    outlier: bool | None = Field(None, description="whether it belongs nowhere; where outliers are asked for")
    memberships: list[float] | None = Field(None, description="in all clusters, in their order; where asked for")


class Answer(BaseModel):
    """The answer in JSON. In Arrow the rows are a table, and the rest is in its schema's metadata (`raydc`)."""

    model: str = Field(description="which model answered, such as models:/digits/3")
    level: int | None
    outliers: float | None
    clusters: list[int] = Field(description="ids, in the order of memberships")
    rows: list[AnsweredRow]


class Refusal(BaseModel):
    """Why there is no answer (RFC 9457)."""

    title: str
    status: int
    detail: str
    row: int | None = Field(None, description="the first row that cannot be used, from 0")
    column: str | None = Field(None, description="and its column")


REFUSALS: dict[int, str] = {
    401: "no token, or a wrong one",
    413: "larger, or of more rows, than is taken at a time",
    415: "a body of another form",
    422: "rows that cannot be used, and which, or a level that the model does not have",
    429: "too many requests are in hand; try again after Retry-After seconds",
    503: "no answer in time; try again after Retry-After seconds",
}


class Room:
    """What is in hand at a time, in requests and bytes: a bound that memory keeps to whatever comes."""

    def __init__(self, requests: int, size: int) -> None:
        self.requests, self.size = requests, size

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Space for a request of `size` bytes while this lasts; a Refused of 429 if there is none."""
        if self.requests < 1 or self.size < size:
            raise Refused(refusal(429, "too many requests", "as many are in hand as there is room for"))
        self.requests, self.size = self.requests - 1, self.size - size
        try:
            yield
        finally:
            self.requests, self.size = self.requests + 1, self.size + size


class Refused(Exception):
    """A request that ends with this reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class Counted:
    """Tells of every request how it ended."""

    def __init__(self, app: ASGIApp, count: Callable[[str, int, float], None]) -> None:
        self.app, self.count = app, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = time.monotonic(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.count(route, status, time.monotonic() - started)


def application(serving: Serving, access: Access, answers: Answers) -> FastAPI:
    """The routes over `answers`, for those who have `access`."""
    web = FastAPI(title="raydc", version="1", docs_url=None, redoc_url=None)  # its pages load scripts from afar
    room = Room(serving.waiting, serving.waiting_bytes)
    bearer = HTTPBearer(auto_error=False, description="the server's token; none where it was started without")

    def permitted(request: Request, _: Annotated[Any, Depends(bearer)]) -> None:
        if (why := access.refuses(request.headers)) is not None:
            raise Refused(refusal(401, "not permitted", why))

    @web.exception_handler(Refused)
    async def refuse(request: Request, problem: Refused) -> Response:
        return _response(problem.reply)

    @web.exception_handler(Away)
    async def away(request: Request, problem: Away) -> Response:
        return _response(refusal(503, "no answer", str(problem)))

    @web.exception_handler(RequestValidationError)
    async def misspelled(request: Request, problem: RequestValidationError) -> Response:
        said = "; ".join(f"{'.'.join(map(str, error['loc'][1:]))}: {error['msg']}" for error in problem.errors())
        return _response(refusal(422, "a parameter cannot be used", said))

    @web.exception_handler(HTTPException)
    async def unknown(request: Request, problem: HTTPException) -> Response:
        return _response(refusal(problem.status_code, str(problem.detail), f"{request.method} {request.url.path}"))

    @web.exception_handler(ClientDisconnect)
    async def gone(request: Request, problem: ClientDisconnect) -> Response:
        return Response(status_code=GONE)

    web.add_middleware(Counted, answers.count)

    @web.post(
        "/assign",
        dependencies=[Depends(permitted)],
        summary="The cluster of each row, and how far it can be trusted",
        response_class=Response,
        responses={
            200: {
                "description": "an entry for each row, in their order",
                "content": {JSON: {"schema": _schema(Answer)}, ARROW: {}},
                "headers": {"raydc-model": {"description": "which model answered", "schema": {"type": "string"}}},
            },
            **{
                code: {"description": said, "content": {PROBLEM: {"schema": _schema(Refusal)}}}
                for code, said in REFUSALS.items()
            },
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    JSON: {"schema": {"anyOf": [_schema(Rows), _schema(Pictures)]}},
                    ARROW: {"schema": {"type": "string", "format": "binary"}},
                },
            }
        },
    )
    async def assign(
        request: Request,
        level: Annotated[int | None, Query(ge=1, description="cut the tree of clusters to as many")] = None,
        outliers: Annotated[
            float | None,
            Query(
                gt=0,
                lt=1,
                description="cluster -1 for what lies farther out than all but this share of the training rows",
            ),
        ] = None,
        memberships: Annotated[bool, Query(description="also the memberships in all clusters")] = False,
    ) -> Response:
        form, wanted = _form(request.headers.get("content-type", "")), _wanted(request.headers.get("accept", ""))
        size = _declared(request, serving.request_bytes)
        with room.taken(size):
            body = await _body(request, size)
            return _response(await answers.answer(Question(body, form, wanted, level, outliers, memberships)))

    @web.get("/model", dependencies=[Depends(permitted)], summary="The model that answers, and what it takes")
    async def model() -> JSONResponse:
        return JSONResponse(await answers.about())

    @web.get("/health", summary="Whether the server lives")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "alive"})

    @web.get(
        "/ready",
        summary="Whether a model is there to answer, and whether it is known to be the one that is asked for",
        responses={503: {"description": "none is"}},
    )
    async def ready() -> JSONResponse:
        about = await answers.about()
        return JSONResponse({"status": "ready", "current": about["problem"] is None})

    return web


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema without references to elsewhere."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    rows = schema["properties"].get("rows", {})
    if "$ref" in rows.get("items", {}):
        rows["items"] = definitions[rows["items"]["$ref"].rpartition("/")[2]]
    return schema


def _form(header: str) -> Form:
    """The form of a body by its Content-Type; Refused of 415 for any other, and so for all that a web page can send."""
    kind = header.partition(";")[0].strip().lower()
    if kind == JSON:
        return JSON
    if kind == ARROW:
        return ARROW
    raise Refused(refusal(415, "unknown form", f"expected Content-Type {JSON} or {ARROW}, got {kind[:100] or 'none'}"))


def _wanted(header: str) -> Form:
    """The form of the answer by the Accept header: JSON unless Arrow is named."""
    return ARROW if ARROW in header.lower() else JSON


def _declared(request: Request, most: int) -> int:
    """Bytes that a request says it has, else the most that it may have; Refused of 413 for more."""
    stated = request.headers.get("content-length")
    size = int(stated) if stated is not None and stated.isdecimal() else most
    if size > most:
        raise _too_large(most)
    return size


async def _body(request: Request, most: int) -> bytes:
    """The body, read no farther than to `most` bytes; Refused of 413 for more."""
    parts, size = list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
    return b"".join(parts)


def _too_large(most: int) -> Refused:
    return Refused(refusal(413, "too large", f"expected {most:,} bytes at most; send the rows in several requests"))


def _response(reply: Reply) -> Response:
    headers = {"raydc-model": reply.model} if reply.model else {}
    if reply.status in (429, 503):
        headers |= SOON
    if reply.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(reply.body, reply.status, headers, media_type=reply.form)
