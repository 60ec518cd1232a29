"""`python -m notifier.cli`, for where the console script is not on the path."""

from .main import run

run()
