"""``durably copy``: all runs and their journals into a new database."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ..copying.copy import Copied, Sums
from ..copying.copy import copy as copy_all
from ..copying.sides import Side
from ..copying.sqlite import File
from ..terminal import open_bar
from .home import Home, home, need_driver, newest_schema
from .show import print_json, print_table
from .target import UsageError

_SHOWN = 16  # digits of a checksum


async def copy(args: Namespace) -> int:
    """Copy, check, and print both sides' counts and checksums."""
    source, target = home(args.source, args.source_schema), home(args.target, args.target_schema)
    sides = _side(source), _side(target)
    _refuse_same(source, target)

    async def migrate() -> None:
        durably = target.instance()
        await durably.migrate()
        await durably.stop(0)

    with open_bar("copying") as show:
        copied = await copy_all(
            *sides, newest_schema(), migrate, show, force=args.force, retire=args.retire
        )
    _tell(copied, source, target, args)
    return 0


def _side(home: Home) -> Side:
    if not home.is_server:
        return File(home.path)
    need_driver()
    from ..copying.postgres import Database

    return Database(home.database, home.name, home.options.schema)


def _refuse_same(source: Home, target: Home) -> None:
    if source.is_server or target.is_server:
        return  # the locks of a server tell two names of it apart
    if target.path.exists() and source.path.exists() and source.path.samefile(target.path):
        raise UsageError(f"{source.name} and {target.name} are the same file")


def _tell(copied: Copied, source: Home, target: Home, args: Namespace) -> None:
    if args.json:
        sides = ((source, copied.source), (target, copied.target))
        plain = [{"database": home.name, **_plain(sums)} for home, sums in sides]
        print_json(
            {
                "source": plain[0],
                "target": plain[1],
                "copied": copied.is_new,
                "retired": args.retire,
            }
        )
        return
    rows = [
        (side, table.removeprefix("durably_"), sum.rows, sum.checksum[:_SHOWN], home.name)
        for side, home, sums in (
            ("source", source, copied.source),
            ("target", target, copied.target),
        )
        for table, sum in sums.items()
    ]
    print_table(("", "TABLE", "ROWS", "CHECKSUM", "DATABASE"), rows)
    print("all of it arrived" if copied.is_new else "all of it was there already")
    if args.retire:
        print(f"{source.name} is retired: no Durably opens it any more")
    else:
        print(f"{source.name} is as it was; use one of the two, or runs are executed twice")


def _plain(sums: Sums) -> dict[str, Any]:
    return {
        table.removeprefix("durably_"): {"rows": sum.rows, "checksum": sum.checksum}
        for table, sum in sums.items()
    }
