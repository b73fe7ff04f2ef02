"""What a JavaScript program reads of what the server sends: each value exactly, or visibly as text."""

from __future__ import annotations

import asyncio
import json
import random
import struct
from pathlib import Path
from typing import Any

from durably.wire.strict_json import MAX_SAFE
from tests.browser import npm
from tests.tier import by_tier

from .asking import Asker
from .serving import serve

SCRIPT = Path(__file__).with_name("reads.mjs")
EDGES = (
    0,
    1,
    -1,
    MAX_SAFE,
    -MAX_SAFE,
    MAX_SAFE + 1,
    -MAX_SAFE - 1,
    2**53 + 1,
    2**63,
    -(2**64),
    10**30,
)
FLOATS = (0.0, -0.0, 0.1, 1e22, 1e-320, 1.7976931348623157e308, 9007199254740993.0, 1e16, 5e-324)
TEXTS = ("", "größe", "\U0001f600", "\ud800", "\udc00x", "\0", "\u2028\u2029", "\x1b[31m", "</script>",
         "__proto__", "constructor", "9007199254740993", "line\r\nline", "data: x\n\nid: 9")  # fmt: skip


def value(rng: random.Random, depth: int = 4) -> Any:
    """Any JSON, of the kind that goes wrong."""
    match rng.randrange(8 if depth else 5):
        case 0:
            return rng.choice(EDGES) + rng.randrange(-3, 4)
        case 1:
            return rng.getrandbits(rng.randrange(1, 200)) * rng.choice((1, -1))
        case 2:
            return rng.choice(
                (
                    *FLOATS,
                    rng.uniform(-1e6, 1e6),
                    rng.uniform(-1, 1) * 10 ** rng.randrange(-300, 300),
                )
            )
        case 3:
            return rng.choice((*TEXTS, "".join(map(chr, rng.choices(range(0x3000), k=5)))))
        case 4:
            return rng.choice((None, True, False))
        case 5 | 6:
            return [value(rng, depth - 1) for _ in range(rng.randrange(5))]
        case _:
            names = {rng.choice(TEXTS) + str(rng.randrange(9)) for _ in range(rng.randrange(4))}
            return {name: value(rng, depth - 1) for name in sorted(names)}


def exact(told: Any) -> Any:
    """The inverse of what the program prints."""
    ((kind, inner),) = told.items()
    match kind:
        case "number":
            (number,) = struct.unpack(">d", bytes.fromhex(inner))
            return number
        case "list":
            return [exact(item) for item in inner]
        case "members":
            return {name: exact(item) for name, item in inner}
        case _:
            return inner


def assert_same(ours: Any, theirs: Any, path: str = "$") -> None:
    """What JavaScript has is our value, or the digits of an integer that it cannot have."""
    match ours:
        case bool() | None | str():
            assert theirs is ours or (theirs == ours and isinstance(ours, str)), path
        case int() if abs(ours) > MAX_SAFE:
            assert theirs == str(ours), path
        case int() | float():
            assert isinstance(theirs, float), path
            assert struct.pack(">d", theirs) == struct.pack(">d", ours), path
        case list():
            assert len(theirs) == len(ours), path
            for i, (left, right) in enumerate(zip(ours, theirs, strict=True)):
                assert_same(left, right, f"{path}[{i}]")
        case _:
            assert theirs.keys() == ours.keys(), path
            for name, item in ours.items():
                assert_same(item, theirs[name], f"{path}.{name}")


async def read(*addresses: str) -> list[Any]:
    """What a Node process makes of what is at these addresses."""
    node = await asyncio.create_subprocess_exec(
        npm.node(), SCRIPT, *addresses, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await node.communicate()
    assert node.returncode == 0
    return [exact(json.loads(line)) for line in out.splitlines()]


async def test_every_value_arrives(durably, jobs):
    seed = by_tier(quick=1, ci=2, soak=random.randrange(2**32))
    rng = random.Random(seed)
    app = durably.asgi()
    asker = Asker(app.handler)

    async def root(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)

    async with serve(root, lifespan="off") as address:
        for _ in range(by_tier(quick=1, ci=12, soak=2_000)):
            given = {"values": [value(rng) for _ in range(400)]}
            run_id = (await asker.trigger("echo", given)).json["runId"]
            await durably.wait(run_id, timeout=60)
            asked = [
                f"{address}/{path}?runId={run_id}" for path in ("run", "steps", "subscribe?after=0")
            ]
            asked[2] = f"{address}/subscribe?after=0&runId={run_id}"
            (run,), (steps,), told = await read(*asked)
            ended = next(event for event in told if event["type"] == "run:complete")
            started = next(event for event in told if event["type"] == "run:start")
            for arrived in (
                run["input"],
                run["output"],
                steps[0]["output"],
                ended["output"],
                started["input"],
            ):
                try:
                    assert_same(given, arrived)
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}") from error
