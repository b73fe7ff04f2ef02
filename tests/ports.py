"""Ports of loopback for servers that are killed and started again at the same address."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

_FIRST = 20_000  # browsers refuse some ports below
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port on which nobody listens, and that no other process of the tests gets while this one lives.

    It is none of those that the system hands out to connections: one of them could take it in the
    moment in which its server is down.
    """
    candidates = range(_FIRST, _end())
    for port in random.sample(candidates, len(candidates)):
        if _reserve(port) and _is_free(port):
            return port
    raise OSError("no port of loopback is free")


def _end() -> int:
    with suppress(OSError):
        first_ephemeral = int(_EPHEMERAL.read_text().split()[0])
        if first_ephemeral > _FIRST + 1_000:
            return first_ephemeral
    return 32_768


def _reserve(port: int) -> bool:
    """Hold the port of UDP, which nothing here speaks, as a mark that all processes can see."""
    mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        mark.bind(("127.0.0.1", port))
    except OSError:
        mark.close()
        return False
    mark.detach()  # open until the process ends
    return True


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False
