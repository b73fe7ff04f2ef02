"""Logging from threads that nothing may hold up.

A log handler may wait for as long as it likes (a full pipe, a stuck collector), and all threads wait
with it for its lock. The threads that keep leases and write commits must not.
"""

from __future__ import annotations

import logging
import threading
from typing import Any


class BackgroundLogger:
    """Logs in a thread of its own. While that waits for a handler, further records are dropped."""

    def __init__(
        self, logger: logging.Logger | logging.LoggerAdapter[logging.Logger], *, threads: bool
    ) -> None:
        self._logger, self._threads = logger, threads
        self._thread: threading.Thread | None = None

    def __call__(self, level: int, text: str, *args: object, **options: Any) -> None:
        if not self._logger.isEnabledFor(level):
            return
        if not self._threads:
            self._logger.log(level, text, *args, **options)
        elif self._thread is None or not self._thread.is_alive():
            log = self._logger.log
            self._thread = threading.Thread(
                target=log,
                args=(level, text, *args),
                kwargs=options,
                name="durably-log",
                daemon=True,
            )
            self._thread.start()
