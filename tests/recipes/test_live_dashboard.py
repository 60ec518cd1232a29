"""docs/recipes/live-dashboard.md: every page is live, says so when it is not, and comes back by itself."""

from __future__ import annotations

from collections.abc import Callable

from tests.recipes.kitchen import Kitchen, wait_for_text

CHANGES = """() => {
  const shown = document.getElementById("visitors");
  return new Promise((changed) => new MutationObserver(() => changed(shown.innerText)).observe(
    shown, { childList: true, characterData: true, subtree: true }));
}"""

# A page that no broadcast reaches.
WITHOUT_NOTIFICATIONS = """
const parse = JSON.parse;
JSON.parse = (text) => {
  const value = parse(text);
  return value.type === "notification" ? { type: "unknown" } : value;
};
"""


def test_pages_of_all_users_follow_and_survive_a_restart(cook: Callable[..., Kitchen]) -> None:
    kitchen = cook("live-dashboard.md")
    tabs = [kitchen.open("alice"), kitchen.open("bob")]
    for tab in tabs:
        wait_for_text(tab, "state", "live")
        assert 100 <= int(tab.evaluate(CHANGES)) <= 999
    deaf = kitchen.open("alice", before=lambda tab: tab.add_init_script(WITHOUT_NOTIFICATIONS))
    wait_for_text(deaf, "state", "live")  # it did not wait for the next value, it asked for the last
    assert 100 <= int(deaf.inner_text("#visitors")) <= 999
    kitchen.dev.kill()
    for tab in tabs:
        wait_for_text(tab, "state", "old")
    kitchen.dev.start()
    for tab in tabs:
        wait_for_text(tab, "state", "live")
