"""Publishers: unique ids, the same id again after every unknown outcome, and now and then an old id on purpose."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence

from tests.e2e.oracle.journal import Entry, Journal
from tests.e2e.oracle.wire import ConnectionLost, HttpConnection, Unexpected

KEYS = ("invoice", "weather", "presence")


class Publisher:
    """One closed loop: publish, await the answer, pause."""

    def __init__(
        self,
        name: str,
        journal: Journal,
        port: int,
        key: str,
        clients: Sequence[str],
        up: asyncio.Event,
        seed: int,
        pause: float,
    ) -> None:
        self.name, self.journal, self.clients = name, journal, clients
        self.features = journal.features
        self.stopping = False
        self._port, self._key = port, key
        self._http = HttpConnection(port, key)
        self._up = up
        self._random = random.Random(f"{seed}/{name}")
        self._pause = pause
        self._mine: list[Entry] = []

    async def run(self) -> None:
        """Until `stopping`; returns when the last id has a definite answer."""
        try:
            while not self.stopping:
                await self.publish(self._choose())
                if self._pause:
                    await asyncio.sleep(self._random.expovariate(1 / self._pause))
        finally:
            self._http.close()

    def _choose(self) -> Entry:
        chance = self._random.random
        if self._mine and chance() < 0.03:
            return self._random.choice(self._mine[-500:])
        number = len(self._mine)
        client = self._random.choice(self.clients)
        body = {"to": client, "n": number, "pad": "é€𝄞"[: self._random.randrange(4)] * self._random.randrange(20)}
        entry = Entry(client, f"{self.name}-{number}", json.dumps(body, ensure_ascii=chance() < 0.5).encode())
        if chance() < 0.3:
            entry.event = "invoice.paid"
        if "receipts" in self.features and chance() < 0.1:
            entry.receipt = True
        if "collapse" in self.features and chance() < 0.1:
            entry.key = self._random.choice(KEYS)
        elif "ttl" in self.features and chance() < 0.1:
            entry.ttl = 1
        elif "wait" in self.features and chance() < 0.02:
            entry.wait = 1
        self._mine.append(entry)
        return entry

    def close(self) -> None:
        self._http.close()

    async def publish(self, entry: Entry, insist: bool = False) -> None:
        """Send it until the answer is definite; `insist`: until it is accepted."""
        target = "/notify" if entry.wait is None else f"/notify?wait={entry.wait}"
        body = encode(entry)
        while True:
            await self._up.wait()
            asked, epoch = self.journal.sending(entry), self.journal.epoch
            try:
                status, replayed, text = await self._http.request("POST", target, body)
            except ConnectionLost:
                self.journal.unknown(entry, epoch)
                await asyncio.sleep(0.01)
                continue
            if status in (200, 202):
                self.journal.answered(entry, asked, status, replayed, json.loads(text))
                return
            self.journal.counts[f"answer {status}"] += 1
            if status == 429:
                self.journal.refused(entry)
                if not insist:
                    return
            elif status != 503:
                raise Unexpected(f"{entry.id} was answered {status}: {text!r}")
            await asyncio.sleep(0.05)

    async def ask_receipts(self) -> None:
        """Ask what became of ids that were answered, over and over."""
        http = HttpConnection(self._port, self._key)
        try:
            while not self.stopping:
                await self._up.wait()
                await asyncio.sleep(self._random.expovariate(1 / 0.1))
                answered = [entry for entry in self._mine[-200:] if entry.receipt and entry.answered_tick]
                if not answered:
                    continue
                entry = self._random.choice(answered)
                asked = self.journal.asking(entry.client)
                try:
                    status, _, text = await http.request("GET", f"/notifications/{entry.id}?client_id={entry.client}")
                except ConnectionLost:
                    continue
                if status != 503:
                    self.journal.receipt(entry, asked, status, json.loads(text))
        finally:
            http.close()


class Purger:
    """An operator who empties mailboxes of a few clients that have to bear it."""

    def __init__(
        self, journal: Journal, port: int, key: str, clients: Sequence[str], up: asyncio.Event, seed: int
    ) -> None:
        self.stopping = False
        self._journal, self._clients, self._up = journal, clients, up
        self._http = HttpConnection(port, key)
        self._random = random.Random(f"{seed}/purger")

    async def run(self) -> None:
        try:
            while not self.stopping:
                await self._up.wait()
                await asyncio.sleep(self._random.expovariate(1 / 0.2))
                client = self._random.choice(self._clients)
                asked, status = self._journal.purging(client), 0
                try:
                    status, _, _ = await self._http.request("DELETE", f"/clients/{client}/notifications")
                except ConnectionLost:
                    continue
                finally:
                    self._journal.purged(client, asked, status == 200)
                if status not in (200, 503):
                    raise Unexpected(f"a purge was answered {status}")
        finally:
            self._http.close()


def encode(entry: Entry) -> bytes:
    """The request body; `data` goes in as the very text that must come out."""
    fields: dict[str, object] = {"client_id": entry.client, "id": entry.id}
    if entry.event is not None:
        fields["event"] = entry.event
    if entry.key is not None:
        fields["collapse_key"] = entry.key
    if entry.ttl is not None:
        fields["ttl"] = entry.ttl
    if entry.receipt:
        fields["receipt"] = True
    return json.dumps(fields).encode()[:-1] + b', "data": ' + entry.data + b"}"
