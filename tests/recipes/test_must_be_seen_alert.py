"""docs/recipes/must-be-seen-alert.md: seen by a click, or an e-mail; never neither."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.recipes.kitchen import Kitchen, commands_of, wait_for_items, wait_for_text
from tests.recipes.mail import mail_server

PAGE = "must-be-seen-alert.md"
BY_E_MAIL = {"reached_by": "e-mail", "status": "sent"}

# Another page of the same user that connects without `?ack=client`.
CARELESS = """async () => {
  const { url, token } = await ask("/token");
  const socket = new WebSocket(url, ["notifier.v1", "bearer." + token]);
  await new Promise((welcome) => { socket.onmessage = welcome; });
}"""


def test_seen_by_a_click_or_by_e_mail(cook: Callable[..., Kitchen]) -> None:
    raise_it, ask_for_it = commands_of(PAGE)
    with mail_server() as post, ThreadPoolExecutor(1) as elsewhere:
        kitchen = cook(PAGE, SMTP_PORT=str(post.port))

        def numbered(number: int, **more: object) -> object:
            return kitchen.post("/alerts", "alice", number=number, text=f"Alert {number}", **more)[1]

        # Nobody is there.
        assert numbered(1, wait=1) == {"reached_by": "e-mail", "status": "queued"}
        assert "Subject: Alert 1: Alert 1" in post.messages.get(timeout=0)
        assert kitchen.paste(ask_for_it) == {"state": "pending", "acked_by": None}

        # Somebody is there, but looks away; later both are seen, the oldest first.
        tab = kitchen.open("alice")
        wait_for_items(tab, "alert", ["Alert 1"])
        assert numbered(2, wait=1) == BY_E_MAIL
        assert "Subject: Alert 2" in post.messages.get(timeout=0)
        tab.click("#seen")
        wait_for_items(tab, "alert", ["Alert 2"])
        assert kitchen.paste(ask_for_it) == {"state": "delivered", "acked_by": "client"}
        assert kitchen.paste(ask_for_it.replace("number=1", "number=2"))["state"] == "pending"
        tab.click("#seen")
        wait_for_items(tab, "alert", [])

        # Somebody is there and clicks, with the default of the page.
        answer = elsewhere.submit(kitchen.paste, raise_it.replace('"number": 1', '"number": 3'))
        wait_for_items(tab, "alert", ["Pump 3 is too hot"])
        tab.click("#seen")
        assert answer.result(30) == {"reached_by": "page"}

        # A browser that answers for its page is not a page that answers for a person.
        tab.evaluate(CARELESS)
        assert numbered(4) == {"reached_by": "e-mail", "status": "delivered"}
        assert "Subject: Alert 4" in post.messages.get(timeout=0)

        # Notifier is down.
        kitchen.dev.kill()
        assert numbered(5) == {"reached_by": "e-mail", "status": "Unreachable"}
        assert "Subject: Alert 5" in post.messages.get(timeout=0)
        assert post.messages.empty()
        kitchen.dev.start()
        wait_for_text(tab, "state", "watching")
