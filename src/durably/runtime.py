"""What the outside world decides: time, chance, sleep, threads. Nothing else reads them.

One object holds them so that a simulation can own them all.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sys
import threading
import time
from contextvars import Context
from datetime import UTC, datetime, timedelta

Seconds = float | timedelta


def seconds(value: Seconds) -> float:
    """A duration given as seconds or a ``timedelta``, as seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def milliseconds(value: Seconds) -> int:
    """A duration given as seconds or a ``timedelta``, as whole milliseconds."""
    return round(seconds(value) * 1000)


def to_datetime(at: int) -> datetime:
    """Milliseconds since 1970 UTC, as an aware ``datetime``."""
    return datetime.fromtimestamp(at / 1000, UTC)


class Runtime:
    """The real world. Subclass it to own time and chance."""

    def __init__(self) -> None:
        # Without a state that processes forked from this one would share.
        self.random: random.Random = random.SystemRandom()
        # Where threads cannot be started (Pyodide), everything runs inline on the event loop.
        self.threads = sys.platform != "emscripten"
        self._lock = threading.Lock()
        self._last_ms = self._counter = 0

    def now(self) -> int:
        """Wall clock, milliseconds since 1970 UTC."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that only grow, from an arbitrary origin."""
        return time.monotonic()

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)

    def new_context(self) -> Context:
        """What a worker's tasks run in: not the context of the code that happened to start it."""
        return Context()

    def token(self) -> str:
        """128 random bits, as hex."""
        return secrets.token_hex(16)

    def jitter(self, delay: float, spread: float = 0.2) -> float:
        """``delay`` give or take ``spread`` of it, so that many do not act as one."""
        return delay * self.random.uniform(1 - spread, 1 + spread)

    def entropy(self, size: int) -> int:
        """``size`` random bytes, as an integer."""
        return int.from_bytes(os.urandom(size))

    def run_id(self) -> str:
        """A UUIDv7 (RFC 9562 §6.2, method 1): ids made in one process sort in the order made.

        48 bits of milliseconds, a 42-bit counter seeded at random each millisecond, 32 random bits.
        """
        with self._lock:
            now = self.now()
            if now > self._last_ms:
                self._last_ms, self._counter = now, self.entropy(6) & ((1 << 41) - 1)
            else:
                self._counter += 1
            ms, counter = self._last_ms, self._counter
        value = (
            (ms & 0xFFFF_FFFF_FFFF) << 80
            | 0x7 << 76
            | (counter >> 30) << 64
            | 0b10 << 62
            | (counter & 0x3FFF_FFFF) << 32
            | self.entropy(4)
        )
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
