"""What was accepted, what was received, and how the rest ended. Nothing accepted may be missing in the end."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]

SLACK_S = 3.0
"""Expired mail is found within a second or two."""
ENDS = ("expired", "collapsed", "purged", "dropped")


@dataclass
class Unseen:
    """Accepted, and received by nobody so far. `body` asks for its status: a repeat of an id changes nothing."""

    body: Body
    ask_at: float


class Journal:
    """The books of one run."""

    def __init__(self) -> None:
        self.accepted: set[int] = set()
        self.seen: set[int] = set()
        self.unseen: dict[int, Unseen] = {}
        self.ends: Counter[str] = Counter()
        """How those ended that nobody received."""
        self.counts: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.wrong: list[str] = []

    def blame(self, text: str) -> None:
        """Something that must not happen. Only the first are kept: one cause mostly shows many times."""
        self.counts["wrong"] += 1
        if len(self.wrong) < 20:
            self.wrong.append(text)

    def accept(self, body: Body, answer: Body, ttl_s: float) -> None:
        """A notification was stored, so the answer says. `body`: one that repeats it exactly."""
        seq = answer["seq"]
        if seq in self.accepted:
            return
        self.accepted.add(seq)
        if seq not in self.seen:
            body = {"id": answer["id"], "client_id": answer["client_id"]} | body
            self.unseen[seq] = Unseen(body, time.monotonic() + ttl_s + SLACK_S)

    def receive(self, client_id: str, frame: Body, last_seq: int) -> int:
        """A notification came. Returns the highest seq of its connection."""
        self.counts["frames"] += 1
        data, seq = frame["data"], frame.get("seq")
        to = data["to"] if isinstance(data, dict) else data.partition(" ")[0]
        if to not in ("*", client_id):
            self.blame(f"{client_id} was sent what is for {to}")
        if seq is None:
            return last_seq
        if seq <= last_seq:
            self.blame(f"{client_id} was sent {seq} after {last_seq}")
        self.seen.add(seq)
        self.unseen.pop(seq, None)
        return max(seq, last_seq)

    def to_ask(self, limit: int, now: float | None = None) -> list[tuple[int, Body]]:
        """Whose end should have come, oldest first. `now` in the future: all."""
        now = time.monotonic() if now is None else now
        found = []
        for seq, unseen in self.unseen.items():
            if unseen.ask_at <= now:
                found.append((seq, unseen.body))
                if len(found) == limit:
                    break
        return found

    def told(self, seq: int, answer: Body) -> None:
        """What the server says of a notification that nobody received."""
        unseen = self.unseen.get(seq)
        if unseen is None:
            return  # received meanwhile
        if "error" in answer:
            self.blame(f"asked for {seq}: {answer['error'].get('code')}: {answer['error'].get('detail')}")
        elif answer.get("seq") != seq:
            self.blame(f"{seq} was forgotten: its id was accepted again as {answer.get('seq')}")
        elif answer["status"] in ENDS:
            self.ends[answer["status"]] += 1
            del self.unseen[seq]
        else:  # pending; or delivered, then its frame must be on its way
            unseen.ask_at = time.monotonic() + 5.0

    def erased(self, client_id: str) -> None:
        """An operator has erased this client, and with it what could be asked."""
        for seq in [seq for seq, unseen in self.unseen.items() if unseen.body["client_id"] == client_id]:
            self.ends["purged"] += 1
            del self.unseen[seq]

    @property
    def phantoms(self) -> int:
        """Received, but never accepted."""
        return len(self.seen - self.accepted)
