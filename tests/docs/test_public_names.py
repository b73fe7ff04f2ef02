"""The public names: sorted, complete, with docstrings, and in docs/reference/."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any, get_overloads

import pytest

import durably
import durably.http
from durably import errors, events

from .blocks import ROOT

API = (ROOT / "docs/reference/api.md").read_text()
EVENTS = (ROOT / "docs/reference/events.md").read_text()
DATA = {
    "CompletedRun",
    "Health",
    "DurablyError",
    "Job",
    "JobHandle",
    "LogEntry",
    "Plugin",
    "Run",
    "RunError",
    "Status",
    "Step",
    "StepRecord",
}
DATA |= {"AsgiApp", "Auth", "WsgiApp"}
DATA |= {"SyncDurably", "SyncJobHandle", "SyncStep"}  # made by others, never by their name


def classes_of(module: Any) -> list[type]:
    return [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and name[0] != "_"
    ]


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class, inherited ones of ours included."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.startswith("durably"):
            for name, value in vars(base).items():
                public = inspect.isfunction(value) or isinstance(value, property)
                if public and not name.startswith("_") and name not in seen:
                    seen.add(name)
                    yield name, value


def signature(function: Any) -> str:
    """As the reference writes it: without ``self`` and without types."""
    parameters = inspect.signature(function).parameters.values()
    bare = [p.replace(annotation=p.empty) for p in parameters if p.name != "self"]
    text = str(inspect.Signature(bare)).replace("<class 'Exception'>", "Exception")
    return (
        text.replace("<factory>", "{}")
        .replace("1048576", "1_048_576")
        .replace("16777216", "16_777_216")
        .replace("datetime.timedelta(seconds=300)", "timedelta(minutes=5)")
    )


def is_awaited(function: Any) -> bool:
    """Whether it is ``async def``, or a ``def`` whose overloads are."""
    return any(map(inspect.iscoroutinefunction, [function, *get_overloads(function)]))


def section(name: str) -> str:
    match = re.search(rf"^### `{name}\b.*?(?=^##[# ] |^## |\Z)", API, re.MULTILINE | re.DOTALL)
    assert match, f"api.md has no section on {name}"
    return match[0]


def test_all_is_sorted_and_complete() -> None:
    names = {
        name
        for name, value in vars(durably).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert list(durably.__all__) == sorted(durably.__all__)
    assert set(durably.__all__) == names | {"errors", "events"}


MODULES = (durably, durably.http)
NAMES = [name for module in MODULES for name in module.__all__]


def named(name: str) -> Any:
    return next(getattr(module, name) for module in MODULES if hasattr(module, name))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_documented(name: str) -> None:
    value = named(name)
    text = section(name)
    if name not in DATA and not inspect.ismodule(value):
        assert text.startswith(f"### `{name}{signature(value)}`"), signature(value)
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            assert f"`{field.name}`" in text, f"{name}.{field.name}"


@pytest.mark.parametrize(
    "name", [name for name in durably.__all__ if inspect.isclass(getattr(durably, name))]
)
def test_every_method_is_documented(name: str) -> None:
    cls = getattr(durably, name)
    text = section(name)
    for member, value in members(cls):
        if isinstance(value, property):
            assert f"`.{member}`" in text, f"{name}.{member}"
        else:
            prefix = "await " if is_awaited(value) else ""
            wanted = f"`{prefix}.{member}{signature(value)}`"
            assert wanted in text, f"{name}: {wanted}"


def test_nothing_documented_is_gone() -> None:
    for name in re.findall(r"^### `(\w+)", API, re.MULTILINE):
        value = named(name)
        known = {member for member, _ in members(value)} if inspect.isclass(value) else set()
        for member in re.findall(r"^- `(?:await )?\.(\w+)[(`]", section(name), re.MULTILINE):
            assert member in known | set(dir(value)), f"{name}.{member}"


@pytest.mark.parametrize("error", classes_of(errors), ids=lambda cls: cls.__name__)
def test_every_error_is_documented(error: type) -> None:
    assert f"`{error.__name__}`" in section("errors")


@pytest.mark.parametrize("event", events.EVENT_TYPES.values(), ids=lambda cls: cls.__name__)
def test_every_event_is_documented(event: type[events.Event]) -> None:
    row = re.search(rf"^\| `{event.type}` \| `{event.__name__}` \|.*$", EVENTS, re.MULTILINE)
    assert row, f"events.md has no row for {event.type}"
    common = {field.name for field in dataclasses.fields(events.Event)}
    for name in common:
        assert f"`{name}`" in EVENTS
    for field in dataclasses.fields(event):
        if field.name not in common:
            assert f"`{field.name}`" in row[0], f"{event.type}: {field.name}"


def public_objects() -> Iterator[tuple[str, Any]]:
    for name in durably.__all__:
        value = getattr(durably, name)
        yield name, value
        if inspect.ismodule(value):
            for cls in classes_of(value):
                yield f"{name}.{cls.__name__}", cls
                yield from ((f"{name}.{cls.__name__}.{m}", v) for m, v in members(cls))
        elif inspect.isclass(value):
            yield from ((f"{name}.{member}", v) for member, v in members(value))


def test_everything_public_has_a_docstring() -> None:
    bare = [
        name
        for name, value in public_objects()
        if not (value.__doc__ or "").strip()
        or (dataclasses.is_dataclass(value) and value.__doc__.startswith(f"{name}("))
    ]
    assert bare == []
