"""``durably.client`` in docs/reference/api.md: every name, every method with its signature, and no more."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import durably.client
from durably.client import DurablyClient, SyncDurablyClient

API = (Path(__file__).parents[2] / "docs/reference/api.md").read_text()


def section(name: str) -> str:
    match = re.search(rf"^#### `{name}\b.*?(?=^##)", API, re.MULTILINE | re.DOTALL)
    assert match, f"api.md has no section on {name}"
    return match[0]


def signature(function: Any) -> str:
    parameters = inspect.signature(function).parameters.values()
    bare = [p.replace(annotation=p.empty) for p in parameters if p.name != "self"]
    return str(inspect.Signature(bare))


def methods() -> list[tuple[str, Any]]:
    return [(name, method) for name, method in vars(DurablyClient).items() if name[0] != "_"]


def test_all_is_sorted() -> None:
    assert durably.client.__all__ == sorted(durably.client.__all__)


@pytest.mark.parametrize("name", durably.client.__all__)
def test_every_name_is_documented(name: str) -> None:
    value = getattr(durably.client, name)
    assert (value.__doc__ or "").strip(), name
    if value in (DurablyClient, SyncDurablyClient):
        assert section(name).startswith(f"#### `{name}{signature(value)}`"), signature(value)
    for field in getattr(value, "_fields", getattr(value, "__dataclass_fields__", ())):
        assert f"`{field}`" in section(name)


@pytest.mark.parametrize(("name", "method"), methods())
def test_every_method_is_documented(name: str, method: Any) -> None:
    assert (method.__doc__ or "").strip()
    prefix = "await " if inspect.iscoroutinefunction(method) else ""
    assert f"`{prefix}.{name}{signature(method)}`" in section("DurablyClient")


def test_nothing_documented_is_gone() -> None:
    known = {name for name, _ in methods()}
    told = set(re.findall(r"`(?:await )?\.(\w+)\(", section("DurablyClient")))
    assert told == known
