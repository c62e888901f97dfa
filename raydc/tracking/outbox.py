"""Messages to a server that may be away: append-only JSON lines, which say what was sent, answered and refused.

A message is `{"id", "kind", "body", "time"}`, an acknowledgement `{"sent", "to", "answer"}`, and `{"refused", "to",
"problem"}` says that a server will not take it. An id is a hash of what the message says, so that one which is put in
again, by a driver that was killed and started again, is recognised. What counts as sent counts for one server; another
one gets everything, as does one that has lost the run (`{"lost", "by"}`). `{"again"}` offers a server once more what it
refused. `{"server", "given"}` says for which one, without its password, the messages were written.

A local file is appended to. An object cannot be: there the lines are parts of PART bytes, and the last one is replaced.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raydc.core.storage import OWN, Store

OUTBOX = f"{OWN}/outbox.jsonl"
PART = 2**14
"""Bytes from which on a part of an outbox in an object store is whole, and the next one begins."""


@dataclass(frozen=True)
class Message:
    """Something that a server is to be told once."""

    id: str
    kind: str
    body: dict[str, Any]
    time: int
    """When it arose, in milliseconds since 1970; not when it is sent."""

    @staticmethod
    def of(kind: str, body: Mapping[str, Any], key: str | None = None) -> "Message":
        """A new message; those of the same `key` (by default: of the same body) are one and the same."""
        said = json.dumps(body, sort_keys=True) if key is None else key
        digest = hashlib.sha256(f"{kind}|{said}".encode()).hexdigest()
        return Message(digest[:32], kind, dict(body), int(time.time() * 1000))


class Outbox:
    """The messages of one output directory. One process writes it at a time."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.messages: dict[str, Message] = {}
        self.answers: dict[tuple[str, str], Any] = {}
        """By id of the message and server."""
        self.problems: dict[tuple[str, str], str] = {}
        """Why a server refused a message, by id of the message and server."""
        self.lost: dict[str, str] = {}
        """The run that a server had last, and has no longer, by server."""
        self.server: tuple[str, bool] | None = None
        """For which the messages are, without its password, and whether a setting named it; None if none is kept."""
        self._parts, self._part = 0, b""
        """How many parts are whole, and what the one that follows holds."""
        while store.exists(_name(self._parts)):
            self._part = store.read_bytes(_name(self._parts))
            for line in self._part.splitlines():
                try:
                    self._take(json.loads(line))
                except ValueError:
                    continue  # cut off by a kill while it was written: nobody was told that it is kept
            if store.local or len(self._part) < PART:
                break
            self._parts, self._part = self._parts + 1, b""

    def __contains__(self, message: Message) -> bool:
        return message.id in self.messages

    def address(self, server: str, given: bool) -> None:
        """Keep for which server the messages are."""
        if self.server != (server, given):
            self._append([{"server": server, "given": given}])

    def add(self, messages: Iterable[Message]) -> None:
        """Keep those that are new, durably, before this returns."""
        new: dict[str, Message] = {}
        for message in messages:
            if message not in self:
                new.setdefault(message.id, message)
        self._append([asdict(message) for message in new.values()])

    def pending(self, server: str) -> list[Message]:
        """What a server has neither been told nor refused, in order."""
        done = self.answers.keys() | self.problems.keys()
        return [message for message in self.messages.values() if (message.id, server) not in done]

    def refused(self, message: Message, server: str, problem: str) -> None:
        """A server will not take this one."""
        self._append([{"refused": message.id, "to": server, "problem": problem}])

    def offer_again(self, server: str) -> None:
        """What a server refused waits for it once more."""
        if any(to == server for _, to in self.problems):
            self._append([{"again": server}])

    def forget(self, server: str, run_id: str) -> None:
        """A server has this run no longer: it is to be told everything anew."""
        self._append([{"lost": run_id, "by": server}])

    def sent(self, messages: Iterable[Message], server: str, answer: Any = None) -> None:
        """A server has acknowledged these."""
        self._append([{"sent": message.id, "to": server, "answer": answer} for message in messages])

    def answer(self, kind: str, server: str) -> Any:
        """What a server said to the last acknowledged message of a kind; None before."""
        found = [self.answers.get((message.id, server)) for message in self.messages.values() if message.kind == kind]
        return next((answer for answer in reversed(found) if answer is not None), None)

    def _take(self, line: dict[str, Any]) -> None:
        match line:
            case {"server": server, "given": given}:
                self.server = server, given
            case {"sent": message, "to": server, "answer": answer}:
                self.answers[message, server] = answer
            case {"refused": message, "to": server, "problem": problem}:
                self.problems[message, server] = problem
            case {"again": server}:
                self.problems = _without(self.problems, server)
            case {"lost": run_id, "by": server}:
                self.lost[server] = run_id
                self.answers, self.problems = _without(self.answers, server), _without(self.problems, server)
            case {"id": message}:
                self.messages.setdefault(message, Message(**line))

    def _append(self, lines: list[dict[str, Any]]) -> None:
        if not lines:
            return
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        if self.store.local:
            path = Path(self.store.path, OUTBOX)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
                file.write(data if file.read() in (b"", b"\n") else b"\n" + data)
                file.flush()
                os.fsync(file.fileno())
        else:
            self.store.write_bytes(_name(self._parts), self._part + data)
            self._part += data
            if len(self._part) >= PART:
                self._parts, self._part = self._parts + 1, b""
        for line in lines:
            self._take(line)


def _name(part: int) -> str:
    """Of a part of the outbox; a local one has but the first."""
    return OUTBOX if part == 0 else f"{OWN}/outbox-{part:06d}.jsonl"


def _without(found: Mapping[tuple[str, str], Any], server: str) -> dict[tuple[str, str], Any]:
    return {key: value for key, value in found.items() if key[1] != server}
