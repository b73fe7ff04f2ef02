"""Text that is safe to store, and plain JSON."""

from __future__ import annotations

import json
from typing import Any

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def clean_text(text: str, limit: int) -> str:
    """Any text, made safe to store: no NUL, no lone surrogates, at most ``limit`` characters."""
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text) - limit} more characters)"
    if not text.isascii() or "\0" in text:
        text = text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
    return text


def dump_json(value: Any) -> str:
    """Plain JSON that Durably itself writes (labels, errors): compact and ASCII."""
    return _encode(value)


def load_json(text: str | None) -> Any:
    """Plain JSON that Durably itself reads; None stays None."""
    return None if text is None else json.loads(text)
