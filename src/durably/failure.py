"""An exception as a value that can be kept. Describing a failure never fails."""

from __future__ import annotations

import traceback

from .codec import clean_text, dump_json
from .models import RunError

MAX_MESSAGE = 8_192
MAX_TRACEBACK = 65_536


def describe(error: BaseException, step: str | None = None) -> RunError:
    """What is kept of an exception: its type, a bounded message, a bounded traceback."""
    return RunError(type(error).__name__[:255], _message(error), step, _traceback(error))


def error_to_json(error: RunError) -> str:
    """The text that an error is kept as."""
    return dump_json(
        {
            "type": error.type,
            "message": error.message,
            "step": error.step,
            "traceback": error.traceback,
        }
    )


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may do anything
        text = f"<{type(error).__name__} whose str() raises>"
    return clean_text(text, MAX_MESSAGE)


def _traceback(error: BaseException) -> str | None:
    try:
        text = "".join(traceback.format_exception(error, limit=-50))
    except Exception:  # noqa: BLE001
        return None
    if len(text) > MAX_TRACEBACK:  # the end says where it was raised
        half = MAX_TRACEBACK // 2
        text = f"{text[:half]}\n… ({len(text) - 2 * half} characters) …\n{text[-half:]}"
    return clean_text(text, MAX_TRACEBACK + 200)
