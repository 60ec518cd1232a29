"""What is installed."""

from __future__ import annotations


def installed_version() -> str:
    """The version of the distribution."""
    from importlib.metadata import version

    return version("notifierd")
