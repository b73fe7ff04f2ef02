"""The OpenAPI 3.1 description, made from the table that routes."""

from __future__ import annotations

from typing import Any


def describe() -> dict[str, Any]:
    return {"openapi": "3.1.0"}
