"""Services: every way of publishing, and what operators and monitors ask."""

import asyncio
import contextlib
import itertools
import random
from typing import Any
from urllib.parse import quote

from bench.soaking.journal import Body, Journal
from bench.soaking.readers import Readers
from bench.soaking.target import Answer, Caller, Target

TTL_S = 60
"""The server's default in this run: whatever nobody takes has ended a minute later."""
DEDUP_S = 120
"""How long ids are remembered: longer than it takes to ask for what has ended."""
IDS = 20_000
"""So many that none comes round while it is remembered."""
GROUPS = tuple(f"group-{n}" for n in range(10))


class Crowd:
    """The recipients: always the same, so that what is kept by client has a bound."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.confirming = [f"ws-{n}" for n in range(100)]
        self.silent = [f"auto-{n}" for n in range(50)]
        self.streaming = [f"sse-{n}" for n in range(30)]
        self.away = [f"away-{n}" for n in range(20)]  # they come seldom: much expires
        self.full = [f"full-{n}" for n in range(8)]  # they are sent more than a mailbox takes
        self.deaf = [f"deaf-{n}" for n in range(5)]
        self.erased = ["erased-0", "erased-1"]
        self.revoked = ["revoked-0"]
        self.present = self.confirming + self.silent + self.streaming
        self.all = self.present + self.away + self.full + self.deaf + self.erased + self.revoked

    def one(self, of: list[str]) -> str:
        """Any of them."""
        return self._rng.choice(of)


class Publishers:
    """Everything that asks by HTTP."""

    def __init__(
        self, target: Target, caller: Caller, journal: Journal, crowd: Crowd, readers: Readers, rng: random.Random
    ) -> None:
        self._target = target
        self._caller = caller
        self._journal = journal
        self._crowd = crowd
        self._readers = readers
        self._rng = rng
        self._number = itertools.count()
        self._ids = itertools.count()
        self._receipts = itertools.count()
        self._erasing = asyncio.Lock()
        self._revoking = asyncio.Lock()

    def _body(self, client_id: str, **options: Any) -> Body:
        data = {"to": client_id, "n": next(self._number), "text": "x" * self._rng.choice((10, 10, 100, 1_000, 5_000))}
        return {"client_id": client_id, "data": data} | options

    def _id(self) -> str:
        return f"id-{next(self._ids) % IDS}"

    def _note(self, body: Body, answer: Answer, *expected: int) -> None:
        """Book the answer to a publish with one recipient."""
        self._journal.counts["publishes"] += 1
        if answer.status not in (expected or (202,)):
            self._journal.blame(f"a publish was answered {answer}")
        elif "seq" in answer.body:
            self._journal.accept(body, answer.body, body.get("ttl", TTL_S))

    def _note_each(self, bodies: list[Body], answer: Answer, *expected: int) -> None:
        if answer.status not in expected:
            self._journal.blame(f"publishes were answered {answer}")
            return
        results = answer.body if isinstance(answer.body, list) else answer.body["results"]
        for body, result in zip(bodies, results, strict=True):
            if "error" in result:
                self._journal.blame(f"a publish among others was answered {result}")
            else:
                self._note(body, Answer(202, result))

    async def plain(self) -> None:
        """To somebody who is mostly there."""
        body = self._body(self._crowd.one(self._crowd.present), event="soak.plain")
        self._note(body, await self._caller.call("POST", "/notify", body))

    async def repeated(self) -> None:
        """With an id, two or three times, in turn or at once: it is stored once."""
        body = self._body(self._crowd.one(self._crowd.present), id=self._id())
        if self._rng.random() < 0.5:
            first = await self._caller.call("POST", "/notify", body)
            answers = [first, await self._caller.call("POST", "/notify", body)]
        else:
            answers = await asyncio.gather(*(self._caller.call("POST", "/notify", body) for _ in range(3)))
        for answer in answers:
            self._note(body, answer, 200, 202)
        if len({answer.body.get("seq") for answer in answers}) != 1:
            self._journal.blame(f"repeats were answered {answers}")
        if self._rng.random() < 0.2:
            other = await self._caller.call("POST", "/notify", body | {"data": "other"})
            if other.status != 409:
                self._journal.blame(f"the id of another was answered {other}")

    async def collapsing(self) -> None:
        """The newer takes the older's place."""
        client_id = self._crowd.one(self._crowd.away if self._rng.random() < 0.5 else self._crowd.present)
        body = self._body(client_id, collapse_key=f"key-{self._rng.randrange(3)}")
        self._note(body, await self._caller.call("POST", "/notify", body))

    async def short(self) -> None:
        """It expires, mostly before anybody comes."""
        body = self._body(self._crowd.one(self._crowd.away), ttl=self._rng.randint(1, 5))
        self._note(body, await self._caller.call("POST", "/notify", body))

    async def transient(self) -> None:
        """`ttl: 0`, to a client or to a group."""
        body = self._body(self._crowd.one(self._crowd.present), ttl=0)
        if self._rng.random() < 0.2:
            body = {"group": self._crowd.one(list(GROUPS)), "data": {"to": "*"}}
        self._note(body, await self._caller.call("POST", "/notify", body))

    async def waiting(self) -> None:
        """Answered when it is settled, or when the time is over; some hang up before."""
        body = self._body(self._crowd.one(self._crowd.confirming), id=self._id())
        path = f"/notify?wait={self._rng.randint(1, 3)}"
        if self._rng.random() < 0.3:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rng.random()):
                    await self._caller.call("POST", path, body)
            path = "/notify"  # it was stored or it was not: a repeat tells, or stores it
        self._note(body, await self._caller.call("POST", path, body), 200, 202)

    async def batch(self) -> None:
        """Some at once, as an array."""
        bodies = [self._body(self._crowd.one(self._crowd.present)) for _ in range(self._rng.randint(1, 20))]
        self._note_each(bodies, await self._caller.call("POST", "/batch", bodies), 200)

    async def many(self) -> None:
        """One to several recipients, some of whom are away."""
        client_ids = self._rng.sample(self._crowd.present + self._crowd.away, self._rng.randint(2, 20))
        common = {"data": {"to": "*", "n": next(self._number)}, "id": self._id()}
        answer = await self._caller.call("POST", "/notify", common | {"client_ids": client_ids})
        self._note_each([common | {"client_id": client_id} for client_id in client_ids], answer, 202)

    async def text(self) -> None:
        """The body is the data."""
        client_id = self._crowd.one(self._crowd.present)
        text = f"{client_id} has mail number {next(self._number)}"
        body = {"client_id": client_id, "data": text, "ttl": 30}
        self._note(body, await self._caller.call("POST", f"/notify/{client_id}?ttl=30", text.encode()))

    async def broadcast(self) -> None:
        """To everybody who is there."""
        answer = await self._caller.call("POST", "/broadcast", {"data": {"to": "*"}, "event": "soak.broadcast"})
        if answer.status != 202:
            self._journal.blame(f"a broadcast was answered {answer}")

    async def overflowing(self) -> None:
        """More than a mailbox takes: the oldest are dropped."""
        client_id = self._crowd.one(self._crowd.full)
        bodies = [self._body(client_id) for _ in range(60)]
        self._note_each(bodies, await self._caller.call("POST", "/batch", bodies), 200)

    async def long(self) -> None:
        """Long ones for those who do not read."""
        body = self._body(self._crowd.one(self._crowd.deaf), ttl=5)
        body["data"]["text"] = "x" * 30_000
        self._note(body, await self._caller.call("POST", "/notify", body))

    async def receipt(self) -> None:
        """With a receipt, which is kept for days: so its ids come round."""
        number = next(self._receipts)
        clients = self._crowd.present
        client_id = clients[number % len(clients)]
        id = f"receipt-{number // len(clients) % 10}"
        body = self._body(client_id, id=id, receipt=True)
        self._note(body, await self._caller.call("POST", "/notify", body), 200, 202)
        answer = await self._caller.call("GET", f"/notifications/{id}?client_id={quote(client_id)}")
        if answer.status != 200:
            self._journal.blame(f"a receipt was answered {answer}")

    # -- operators ----------------------------------------------------------------------------------------------------

    async def purge(self) -> None:
        """A whole mailbox, or its first notification."""
        client_id = self._crowd.one(self._crowd.full + self._crowd.away)
        path = f"/clients/{client_id}/notifications"
        listed = await self._caller.call("GET", f"{path}?limit=5")
        if self._rng.random() < 0.3:
            await self._caller.call("DELETE", path)
        elif mail := listed.body["notifications"]:
            await self._caller.call("DELETE", f"{path}/{mail[0]['seq']}")

    async def erase(self) -> None:
        """All that is kept of a client. One at a time: what is erased cannot be asked for later."""
        async with self._erasing:
            client_id = self._crowd.one(self._crowd.erased)
            for _ in range(3):
                body = self._body(client_id)
                self._note(body, await self._caller.call("POST", "/notify", body))
            answer = await self._caller.call("DELETE", f"/clients/{client_id}")
            if answer.status == 200:
                self._journal.erased(client_id)
            else:
                self._journal.blame(f"erasing was answered {answer}")

    async def revoke(self) -> None:
        """Its tokens are refused, until that is lifted."""
        async with self._revoking:
            (client_id,) = self._crowd.revoked
            path, token = f"/clients/{client_id}/revoke", self._target.token(client_id)
            await self._caller.call("POST", path)
            await self._readers.barred(token)
            await self._caller.call("DELETE", path)

    async def look(self) -> None:
        """What is asked by people and monitors."""
        client_id = self._crowd.one(self._crowd.all)
        paths = (
            "/clients?limit=50",
            f"/clients/{client_id}",
            "/readyz",
            "/livez",
            "/metrics",
            "/openapi.json",
            "/docs",
        )
        answer = await self._caller.call("GET", self._rng.choice(paths))
        if answer.status != 200:
            self._journal.blame(f"a look was answered {answer}")

    async def disconnect(self) -> None:
        """An operator sends a client elsewhere."""
        client_id = self._crowd.one(self._crowd.confirming + self._crowd.silent)
        await self._caller.call("DELETE", f"/clients/{client_id}/connections?reconnect=true")

    async def bad(self) -> None:
        """A request that is refused."""
        body = self._body("nobody")
        post = ("POST", "/notify")
        choices: list[tuple[int, str, str, object, dict[str, Any]]] = [
            (401, *post, body, {"key": "wrong" * 8}),
            (401, *post, body, {"key": None}),
            (400, *post, b'{"client_id":', {}),
            (422, *post, body | {"colour": "red"}, {}),
            (422, *post, body | {"client_ids": ["a"]}, {}),
            (422, *post, body | {"ttl": -1}, {}),
            (413, *post, b'{"data":"' + b"x" * 70_000 + b'"}', {}),
            (415, *post, body, {"headers": {"Content-Encoding": "gzip"}}),
            (404, "GET", "/nowhere", None, {}),
            (405, "PUT", "/notify", body, {}),
            (404, "GET", "/notifications/never-published", None, {}),
        ]
        status, method, path, data, options = self._rng.choice(choices)
        answer = await self._caller.call(method, path, data, **options)
        if answer.status != status:
            self._journal.blame(f"{method} {path} was answered {answer}, not {status}")

    # -- accounting ---------------------------------------------------------------------------------------------------

    async def ask(self, now: float | None = None) -> int:
        """Ask how those ended that nobody received, by repeating them. Returns how many were asked for."""
        asked = self._journal.to_ask(100, now)
        if asked:
            answer = await self._caller.call("POST", "/batch", [body for _, body in asked])
            for (seq, _), result in zip(asked, answer.body, strict=True):
                self._journal.told(seq, result)
        return len(asked)
