"""The map is true, and the package is what it says: layers, paths, what is loaded, annotations."""

import configparser
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import durably
import durably.client
import durably.errors
import durably.events
import durably.http

ROOT = Path(__file__).parents[1]
MAP = (ROOT / "ARCHITECTURE.md").read_text("utf-8")


def test_the_table_of_layers_is_the_linters() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter", "utf-8")
    layers = contracts["importlinter:contract:durably"]["layers"].split("\n")
    linted = [{name.strip() for name in layer.split("|")} for layer in layers if layer.strip()]
    table = MAP.partition("| layer |")[2].partition("\n\n")[0]
    shown = [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table.split("\n")[2:]]
    assert shown == [layer - {"__pyinstaller"} for layer in linted]


def test_type_checking_imports_count() -> None:
    assert "exclude_type_checking_imports = False" in (ROOT / ".importlinter").read_text("utf-8")


def test_every_path_is_there() -> None:
    paths = {
        path
        for path in re.findall(r"`([\w/.-]+(?:\.\w+|/))`", MAP)
        if "/" in path or path.endswith((".py", ".sql"))
    }
    assert len(paths) > 40
    for path in paths:
        assert any((base / path).exists() for base in (ROOT, ROOT / "src/durably")), path


def test_importing_durably_loads_no_server_and_no_client() -> None:
    code = "import sys, durably; print(*[m for m in sys.modules if m.startswith('durably.')])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = printed.stdout.split()
    assert "durably.engine.engine" in loaded
    assert not [name for name in loaded if name.startswith(("durably.http", "durably.client"))]


PUBLIC = [
    getattr(module, name)
    for module in (durably, durably.http, durably.client)
    for name in module.__all__
    if inspect.isclass(getattr(module, name))
] + [
    value
    for module in (durably.errors, durably.events)
    for value in vars(module).values()
    if inspect.isclass(value) and value.__module__ == module.__name__
]


@pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_annotations_can_be_evaluated(cls: type) -> None:
    typing.get_type_hints(cls)
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if not name.startswith("_") and inspect.isfunction(function):
            typing.get_type_hints(function)
