"""docs/recipes/notification-bell.md: the counter is what the server says is unread."""

from __future__ import annotations

from collections.abc import Callable

from tests.recipes.kitchen import Kitchen, commands_of, items, wait_for_text

PAGE = "notification-bell.md"


def test_the_counter_is_the_same_in_all_tabs_and_after_a_restart(cook: Callable[..., Kitchen]) -> None:
    kitchen = cook(PAGE)
    (curl,) = commands_of(PAGE)
    nobody = f"curl -s -o /dev/null -w '%{{http_code}}' {kitchen.url}/token"
    assert kitchen.paste(nobody) == 401, "who has no session gets no token"
    tabs = [kitchen.open("alice"), kitchen.open("alice")]
    for tab in tabs:
        wait_for_text(tab, "count", "0")
    assert kitchen.paste(curl) == {"status": "sent"}
    for tab in tabs:
        wait_for_text(tab, "count", "1")
        assert items(tab, "unread") == ["bob: Nice drawing"]

    tabs[0].reload()
    wait_for_text(tabs[0], "count", "1")  # seen is not read
    tabs[0].click("#bell")
    for tab in tabs:
        wait_for_text(tab, "count", "0")
        tab.close()

    kitchen.until(lambda: not kitchen.server("/clients/alice")["connections"])
    for text in ("first", "second"):
        assert kitchen.paste(curl.replace("Nice drawing", text)) == {"status": "queued"}
    late = kitchen.open("alice")
    wait_for_text(late, "count", "2")
    # One of them expires: the page keeps showing it until it connects anew and learns what is left.
    brief = 'curl -H "X-API-Key: $KEY" -d \'{"text": "brief"}\' \'http://127.0.0.1:8000/notify/alice?ttl=1\''
    assert kitchen.paste(brief)["status"] == "sent"
    wait_for_text(late, "count", "3")
    kitchen.until(lambda: kitchen.server("/clients/alice")["pending"] == 2)
    kitchen.dev.kill()
    failing = curl.replace("curl", "curl -s -o /dev/null -w '%{http_code}'")
    assert kitchen.paste(failing) == 503, "who wrote is told that nobody was notified"
    kitchen.dev.start()
    wait_for_text(late, "count", "2")
    wait_for_text(late, "note", "Unread, and no longer kept: 1.")
    kitchen.paste(curl)
    wait_for_text(late, "count", "3")
    assert items(late, "unread") == ["bob: first", "bob: second", "bob: Nice drawing"]
