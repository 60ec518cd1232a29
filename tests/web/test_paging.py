"""A page of many thousand connected clients: complete, in order, and never in the way."""

from __future__ import annotations

import asyncio
from typing import Any

from notifier.hub import Hub
from notifier.web.clients import SLICE, Administration


class Connected:
    """As much of a carrier as the hub looks at."""

    def __init__(self, client_id: str) -> None:
        self.session = self
        self.identity = self
        self.client_id = client_id
        self.groups = ()


class OneNode:
    def __init__(self) -> None:
        self.hub = Hub()


async def test_every_client_is_on_one_page_and_others_go_on_meanwhile() -> None:
    node: Any = OneNode()
    names = [f"client-{n * 7919 % 5003}" for n in range(5003)]
    for name in names:
        node.hub.add(Connected(name))
    act = Administration(node, "here")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    seen: list[str] = []
    after = ""
    while True:
        before = turns
        page = await act.connected(500, after)
        assert turns - before >= len(names) // SLICE
        seen += [row.client_id for row in page.clients]
        if page.next is None:
            break
        after = page.next
    task.cancel()
    assert seen == sorted(names)


async def test_a_client_that_leaves_while_a_page_is_made_is_not_on_it() -> None:
    node: Any = OneNode()
    carriers = [Connected(f"{n:05}") for n in range(SLICE * 3)]
    for carrier in carriers:
        node.hub.add(carrier)
    page = asyncio.create_task(Administration(node, "here").connected(10, ""))
    await asyncio.sleep(0)
    node.hub.remove(carriers[3])
    rows = (await page).clients
    assert [row.client_id for row in rows] == [f"{n:05}" for n in range(10) if n != 3]
