"""What is measured. A scenario takes a server and a scale and returns its values; the registry is at the bottom."""

from bench.scenarios.base import Outcome, Scale, Scenario
from bench.scenarios.crowd import CROWD
from bench.scenarios.restart import RESTART
from bench.scenarios.throughput import THROUGHPUT

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in (*THROUGHPUT, *CROWD, *RESTART)}

__all__ = ["SCENARIOS", "Outcome", "Scale", "Scenario"]
