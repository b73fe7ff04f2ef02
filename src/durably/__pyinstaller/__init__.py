"""For PyInstaller, which finds modules by their imports: what else belongs into a program."""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Where PyInstaller finds ``hook-durably.py``."""
    return [str(Path(__file__).parent)]
