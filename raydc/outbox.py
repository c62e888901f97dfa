"""Messages to a server that may be away: an append-only file of JSON lines, which says what was sent and answered.

A message is `{"id", "kind", "body", "time"}`, an acknowledgement `{"sent", "to", "answer"}`. An id is a hash of what
the message says, so that one which is put in again, by a driver that was killed and started again, is recognised. What
counts as sent counts for one server; another one gets everything. `{"server", "given"}` says for which one, without its
password, the messages were written.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raydc.storage import Store

OUTBOX = "outbox.jsonl"


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
        self.server: tuple[str, bool] | None = None
        """For which the messages are, without its password, and whether a setting named it; None if none is kept."""
        self._whole = store.read_bytes(OUTBOX) if store.exists(OUTBOX) else b""
        for line in self._whole.splitlines():
            try:
                self._take(json.loads(line))
            except ValueError:
                continue  # cut off by a kill while it was written: nobody was told that it is kept

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
        """What a server has not been told, in order."""
        return [message for message in self.messages.values() if (message.id, server) not in self.answers]

    def sent(self, messages: Iterable[Message], server: str, answer: Any = None) -> None:
        """A server has acknowledged these."""
        self._append([{"sent": message.id, "to": server, "answer": answer} for message in messages])

    def answer(self, kind: str, server: str) -> Any:
        """What a server said to the last acknowledged message of a kind; None before."""
        found = [self.answers.get((message.id, server)) for message in self.messages.values() if message.kind == kind]
        return next((answer for answer in reversed(found) if answer is not None), None)

    def _take(self, line: dict[str, Any]) -> None:
        if "server" in line:
            self.server = line["server"], line["given"]
        elif "sent" in line:
            self.answers[line["sent"], line["to"]] = line["answer"]
        else:
            self.messages.setdefault(line["id"], Message(**line))

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
        else:  # an object cannot be appended to
            self.store.write_bytes(OUTBOX, self._whole + data)
            self._whole += data
        for line in lines:
            self._take(line)
