"""Stands where Hypothesis would, whose native part is not built for Pyodide: conftest.py sets it up."""

from typing import Any


class HealthCheck:
    too_slow = None


class settings:
    @staticmethod
    def register_profile(name: str, **given: Any) -> None:
        pass

    @staticmethod
    def load_profile(name: str) -> None:
        pass
