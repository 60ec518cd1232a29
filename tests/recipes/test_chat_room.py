"""docs/recipes/chat-room.md: who is there sees it, who comes later loads it, who is thrown out gets nothing more."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page

from tests.recipes.kitchen import Kitchen, commands_of, wait_for_items, wait_for_text

PAGE = "chat-room.md"


def say(tab: Page, text: str) -> None:
    tab.fill("#text", text)
    tab.click("#form button")


def test_a_conversation(cook: Callable[..., Kitchen]) -> None:
    kitchen = cook(PAGE)
    alice, bob = kitchen.open("alice"), kitchen.open("bob")
    for tab in (alice, bob):
        wait_for_text(tab, "state", "in the room")
    say(alice, "Hello <b>Bob</b>")
    wait_for_items(bob, "messages", ["alice: Hello <b>Bob</b>"])
    say(bob, "Hello")
    said = ["alice: Hello <b>Bob</b>", "bob: Hello"]
    wait_for_items(alice, "messages", said)

    # Said while a page is away: not in its mailbox, but in the history.
    bob.goto("about:blank")
    say(alice, "Still there?")
    said.append("alice: Still there?")
    wait_for_items(alice, "messages", said)
    assert kitchen.server("/clients/bob")["pending"] == 0
    bob = kitchen.open("bob")
    wait_for_items(bob, "messages", said)

    # A restart of Notifier loses nothing, because pages load again when they are back.
    kitchen.dev.kill()
    say(bob, "Into the dark")
    wait_for_items(bob, "messages", [*said, "bob: Into the dark"])
    kitchen.dev.start()
    said.append("bob: Into the dark")
    wait_for_items(alice, "messages", said)
    kitchen.until(lambda: bool(kitchen.server("/clients/bob")["connected"]))

    (remove,) = commands_of(PAGE)
    assert kitchen.paste(remove) == {}
    wait_for_text(bob, "state", "/messages?room=lobby: 403")
    say(alice, "Alone at last")
    wait_for_items(alice, "messages", [*said, "alice: Alone at last"])
    # What is sent to Bob alone goes the same way, so what was sent to the room before it would be there.
    last = '{"client_id": "bob", "ttl": 0, "event": "chat", "data": {"room": "lobby", "number": 99, "text": "last"}}'
    assert kitchen.paste(f"curl -H \"X-API-Key: $KEY\" -d '{last}' http://127.0.0.1:8000/notify")["status"] == "sent"
    wait_for_items(bob, "messages", [*said, "last"])
