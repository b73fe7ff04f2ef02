"""Bugs to plant in a server: tests that let one of them pass would prove nothing."""

from __future__ import annotations


def plant(name: str) -> None:
    """Plant a bug by its name; '' is none."""
