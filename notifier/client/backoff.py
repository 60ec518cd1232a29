"""How long to wait before the next try."""

from __future__ import annotations

import random


class Backoff:
    """Exponential, with full jitter: each delay is uniform between zero and a ceiling that doubles up to `cap`.

    Full jitter, because thousands of clients lose the same server in the same instant: a fixed schedule would bring
    them back in waves. Call `reset` where the server has shown that it is well (at `welcome`, not at `open`).
    """

    def __init__(self, base: float = 1.0, cap: float = 30.0) -> None:
        self.base = base
        self.cap = cap
        self._tries = 0

    def next_delay(self) -> float:
        """The delay in seconds before the next try."""
        # 2**10 is beyond any sensible cap; the bound keeps the power from growing for ever.
        ceiling = min(self.cap, self.base * 2.0 ** min(self._tries, 10))
        self._tries += 1
        return random.uniform(0.0, ceiling)  # noqa: S311 - spreads load, protects no secret

    def reset(self) -> None:
        """The next delay starts from `base` again."""
        self._tries = 0
