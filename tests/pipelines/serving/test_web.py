"""The HTTP face over answers that are made up."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import pytest

from raydc.pipelines.serving.access import Access, token_digest
from raydc.pipelines.serving.payloads import ARROW, JSON, Question, Reply
from raydc.pipelines.serving.settings import Serving
from raydc.pipelines.serving.web import Away, application
from tests.pipelines.serving.asking import ask, json_of

ROW = {"cluster": 3, "name": None, "membership": 0.9, "agreement": None, "distance": 0.5}
ANSWER = {"model": "models:/digits/3", "level": None, "outliers": None, "clusters": [3], "rows": [ROW]}
BODY = b'{"rows": [[1, 2]]}'


@dataclass
class Recorded:
    """Answers everything alike, if it may, and remembers what it was asked and told."""

    away: bool = False
    problem: str | None = None
    asked: list[Question] = field(default_factory=list)
    counted: list[tuple[str, int]] = field(default_factory=list)
    during: Any = None

    async def answer(self, question: Question) -> Reply:
        self.asked.append(question)
        if self.during is not None:
            await self.during()
        if self.away:
            raise Away("nobody")
        return Reply(200, question.wanted, json.dumps(ANSWER).encode(), "models:/digits/3", 1)

    async def about(self) -> dict[str, Any]:
        if self.away:
            raise Away("nobody")
        return {"model": "models:/digits/3", "problem": self.problem}

    def count(self, route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.counted.append((route, status))


def web(answers: Recorded, access: Access | None = None, **settings: Any) -> Any:
    return application(Serving(model="a", **settings), access or Access(None, True), answers)


def test_a_question_is_passed_on_as_it_was_asked():
    answers = Recorded()
    path = "/assign?level=5&outliers=.05&memberships=true"
    status, headers, body = ask(web(answers), "POST", path, [b'{"rows":', b" []}"], {"accept": f"{ARROW}, */*"})
    assert (status, headers["content-type"], headers["raydc-model"]) == (200, ARROW, "models:/digits/3")
    assert answers.asked == [Question(b'{"rows": []}', JSON, ARROW, 5, 0.05, True)]
    status, headers, body = ask(web(answers), "POST", "/assign", [BODY], {"content-type": f"{ARROW}; a=b"})
    assert (headers["content-type"], json_of(body)) == (JSON, ANSWER)
    assert answers.asked[1] == Question(BODY, ARROW, JSON)
    assert answers.counted == [("/assign", 200)] * 2


@pytest.mark.parametrize(
    ("status", "path", "headers", "parts"),
    [
        (413, "/assign", {"content-length": "101"}, [b"x"]),
        (413, "/assign", {}, [b"x" * 60, b"x" * 60, b"x" * 60]),
        (415, "/assign", {"content-type": "text/plain"}, [BODY]),
        (415, "/assign", {"content-type": ""}, [BODY]),
        (422, "/assign?level=many", {}, [BODY]),
        (422, "/assign?level=0", {}, [BODY]),
        (422, "/assign?outliers=1", {}, [BODY]),
        (422, "/assign?outliers=nan", {}, [BODY]),
        (404, "/elsewhere", {}, [BODY]),
        (405, "/model", {}, [BODY]),
        (401, "/assign", {"host": "elsewhere.example"}, [BODY]),
    ],
)
def test_what_cannot_be_answered_is_refused_before_anybody_is_asked(status, path, headers, parts):
    answers = Recorded()
    found, sent, body = ask(web(answers, request_bytes=100), "POST", path, parts, headers)
    said = json_of(body)
    assert (found, said["status"], sent["content-type"]) == (status, status, "application/problem+json")
    assert said["title"] and said["detail"] and not answers.asked
    assert [code for _, code in answers.counted] == [status]


def test_a_token_is_asked_for_where_there_is_one_but_for_whether_the_server_lives(tmp_path):
    (tmp_path / "token").write_text("a-token-that-is-long-enough")
    served = web(Recorded(), Access(token_digest(str(tmp_path / "token")), False))
    given = {"authorization": "Bearer a-token-that-is-long-enough"}
    for method, path in (("POST", "/assign"), ("GET", "/model")):
        status, headers, body = ask(served, method, path, [BODY])
        assert (status, headers["www-authenticate"]) == (401, "Bearer") and b"long-enough" not in body
        assert ask(served, method, path, [BODY], given)[0] == 200
    for path in ("/health", "/ready", "/openapi.json"):
        assert ask(served, "GET", path)[0] == 200


def test_a_model_that_is_not_known_to_be_the_one_asked_for_is_said_to_be_so():
    for problem, current in ((None, True), ("models:/digits/4 is damaged", False)):
        status, _, body = ask(web(Recorded(problem=problem)), "GET", "/ready")
        assert (status, json_of(body)) == (200, {"status": "ready", "current": current})


def test_nobody_there_is_said_to_be_so():
    served = web(Recorded(away=True))
    for method, path in (("POST", "/assign"), ("GET", "/model"), ("GET", "/ready")):
        status, headers, _ = ask(served, method, path, [BODY])
        assert (status, headers["retry-after"]) == (503, "1")
    assert ask(served, "GET", "/health")[0] == 200


@pytest.mark.parametrize("bound", [{"waiting": 2}, {"waiting_bytes": 2 * len(BODY)}])
def test_more_than_there_is_room_for_is_sent_away_and_room_is_made_again(bound):
    answers = Recorded()
    served = web(answers, **bound)
    headers = {"content-length": str(len(BODY))}

    async def again() -> None:
        answers.during = None if len(answers.asked) == 2 else again
        inner = await asyncio.to_thread(ask, served, "POST", "/assign", [BODY], headers)
        seen.append((inner[0], inner[1].get("retry-after")))

    for _ in range(3):
        seen: list[tuple[int, str | None]] = []
        answers.asked.clear()
        answers.during = again
        assert ask(served, "POST", "/assign", [BODY], headers)[0] == 200
        assert seen == [(429, "1"), (200, None)], seen


def test_the_description_is_of_what_is_taken_and_given():
    found = json_of(ask(web(Recorded()), "GET", "/openapi.json")[2])
    post = found["paths"]["/assign"]["post"]
    assert [one["name"] for one in post["parameters"]] == ["level", "outliers", "memberships"]
    assert {"200", "401", "413", "415", "422", "429", "503"} == {*post["responses"]}
    assert post["security"] and found["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    takes = post["requestBody"]["content"]
    assert {*takes} == {JSON, ARROW}
    for good in ({"rows": [[1, 2]]}, {"rows": [{"a": None}]}, {"pictures": ["aa"]}):
        jsonschema.validate(good, takes[JSON]["schema"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"rows": [3]}, takes[JSON]["schema"])
    gives = post["responses"]["200"]["content"][JSON]["schema"]
    jsonschema.validate(ANSWER, gives)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(ANSWER | {"rows": [{"cluster": "three"}]}, gives)
