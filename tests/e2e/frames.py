"""What the tests of the frame tables do to a server, and look at."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.harness import Client, Server, apublish, arequest


async def send(server: Server, client_id: str, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
    answers = [await apublish(server, client_id=client_id, **({"data": {"n": n}} | fields)) for n in range(count)]
    assert all(answer.status == 202 for answer in answers), answers
    return [answer.body for answer in answers]


async def operator(server: Server, method: str, client_id: str, what: str) -> None:
    answer = await arequest(server, method, f"/clients/{quote(client_id)}/{what}")
    assert answer.status < 300, answer


def kinds(client: Client) -> list[str]:
    return [frame["type"] for frame in client.frames]


async def outcome(server: Server, client_id: str, answer: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """What has become of a notification with `"n"`, its number: told when that is final."""
    n = {"n": fields.pop("n", 0)}
    repeat = await apublish(server, client_id=client_id, id=answer["id"], data=n, wait=10, **fields)
    assert repeat.status == 200, repeat
    body: dict[str, Any] = repeat.body
    return body
