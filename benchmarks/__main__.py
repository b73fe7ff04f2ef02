"""``python -m benchmarks``: ours and the peers, side by side, in one table."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time

from .cases import cases
from .peers import COLUMNS, HERE, find_peers
from .report import header, noise, tables, targets
from .runner import measure
from .server import PostgresServer


def main() -> None:
    """Install what is missing, measure, print."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that no driver is left
    began = time.monotonic()
    chosen = [
        case
        for case in cases(options.quick)
        if case.letter in options.only or case.id in options.only
    ]
    columns = {column for case in chosen for column in case.options}
    peers = find_peers([name for name in options.peers.split(",") if name in columns])
    repeat = options.repeat or (1 if options.quick else 3)
    server = PostgresServer() if any(case.on_postgres for case in chosen) else None
    try:
        print(header(peers, repeat, options.quick, server), end="\n\n", flush=True)
        results = measure(chosen, peers, repeat, 30 if options.quick else 200, server)
    finally:
        if server is not None:
            server.close()
    print(tables(results, peers), end="\n\n")
    print(targets(results), end="\n\n")
    print(noise(results))
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"took {time.monotonic() - began:.0f} s, load average after {load}")
    raw = {f"{case} {column}": found for (case, column), found in results.found.items()}
    (HERE / "last.json").write_text(json.dumps(raw, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", default="a,b,c,d,e,f,http,browser,postgres", help="cases, as a,b or e-claim-few"
    )
    parser.add_argument("--quick", action="store_true", help="smaller, and once: under 3 minutes")
    parser.add_argument("--peers", default=",".join(COLUMNS), help="columns, as ours,dbos")
    parser.add_argument("--repeat", type=int, default=0, help="repetitions, by default 3")
    options = parser.parse_args()
    options.only = options.only.split(",")
    return options


if __name__ == "__main__":
    main()
