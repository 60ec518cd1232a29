"""docs/recipes/long-job-progress.md: one state of each job waits, the last."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page

from tests.recipes.kitchen import Kitchen, commands_of, items, wait_for_items

PAGE = "long-job-progress.md"


def received(into: list[dict[str, Any]]) -> Callable[[Page], None]:
    """Notes the notifications that reach a tab."""

    def note(payload: str | bytes) -> None:
        frame = json.loads(payload)
        if frame["type"] == "notification":
            into.append(frame["data"])

    def listen(tab: Page) -> None:
        tab.on("websocket", lambda socket: socket.on("framereceived", note))

    return listen


def test_a_job_that_was_done_while_the_page_was_closed_says_only_that(cook: Callable[..., Kitchen]) -> None:
    kitchen = cook(PAGE)
    (curl,) = commands_of(PAGE)
    job = kitchen.paste(curl)["job"]

    def last() -> Any:
        waiting = kitchen.server("/clients/alice/notifications")["notifications"]
        assert len(waiting) <= 1, "never more than one state of a job"
        return waiting and waiting[0]["data"]["percent"]

    kitchen.until(lambda: last() == 100)
    came: list[dict[str, Any]] = []
    tab = kitchen.open("alice", before=received(came))
    wait_for_items(tab, "jobs", [f"{job}: done"])
    assert came == [{"job": job, "percent": 100}]
    kitchen.until(lambda: kitchen.server("/clients/alice")["pending"] == 0)

    # A reload in the middle of a job that takes a minute shows where it is, without waiting for its next step.
    slow = kitchen.post("/jobs", "alice", seconds=60)[1]["job"]
    wait_for_items(tab, "jobs", [f"{job}: done", f"{slow}: 0 %"])
    tab.reload()
    wait_for_items(tab, "jobs", [f"{slow}: 0 %"])

    # The page that is open follows another one to its end, and acknowledges it.
    quick = kitchen.paste(curl)["job"]
    tab.wait_for_function("(job) => jobs.get(job) === 100", arg=quick)
    assert items(tab, "jobs")[-1] == f"{quick}: done"
    steps = [step["percent"] for step in came if step["job"] == quick]
    assert steps == sorted(set(steps))
    assert len(steps) > 1
