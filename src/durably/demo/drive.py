"""The demo: start a worker, kill it in the middle of a step, start another, check what comes out."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..durably import Durably
from ..events import RunStart
from ..models import Progress, Run
from ..state import Status
from . import census, index_stdlib, report
from .app import open_app
from .index_stdlib import BATCH, Library, Totals
from .worker import WorkerFailedError, WorkerProcess

KEY = "demo"
_KILL_AFTER = 0.4  # of the files
_INTO_STEP = 15  # files of a batch that are indexed when its worker is killed
_LOOK = 0.005  # seconds between two looks at how far the worker is

Show = Callable[[Progress], None]
OpenBar = Callable[[str], AbstractContextManager[Show]]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    fresh: bool = False
    """Start over, although an earlier demo was interrupted."""
    tests: bool = False
    """Index the library's own tests as well."""
    limit: int | None = None


def run_demo(options: Options, open_bar: OpenBar) -> int:
    """Run the demo; the exit code: 0 if the two counts agree, 130 if it is to be resumed."""
    place = _find_place()
    over = place / "over"
    if options.fresh or over.exists():
        shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    worker = WorkerProcess(place)
    try:
        agree = asyncio.run(Demo(place, worker, options, open_bar).run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        worker.stop()
        _say("\nInterrupted. The same command goes on from here; --fresh starts over.")
        return 130
    except WorkerFailedError as error:
        print(f"durably: error: {error}", file=sys.stderr)
        return 1
    finally:
        worker.stop()
    if agree:
        over.touch()
    return 0 if agree else 1


def _find_place() -> Path:
    """A directory of this user's own, the same one next time."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    caches = Path(base) if base else Path.home() / ".cache"
    if os.access(caches if caches.exists() else caches.parent, os.W_OK):
        return caches / "durably-demo"
    whose = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"durably-demo-{whose}"


def _command() -> str:
    """How the caller calls ``durably`` again."""
    script = Path(sys.argv[0])
    if script.stem != "durably":
        return f"{shlex.quote(sys.executable)} -m durably.cli"
    if (found := shutil.which("durably")) and Path(found).samefile(script):
        return "durably"
    return shlex.quote(os.path.relpath(script))


def _say(text: str = "") -> None:
    print(text, flush=True)


class PlainCount:
    """The same count in this process, without Durably, in a thread beside the worker."""

    def __init__(self, root: Path, files: list[str]) -> None:
        self.progress = Progress(0, len(files), "plain count")
        self._root, self._files = root, files
        self._totals: Totals | None = None
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def _count(self) -> None:
        facts: list[census.Facts] = []
        for file in self._files:
            facts.append(census.examine(self._root, file))
            self.progress = Progress(len(facts), len(self._files), file)
        self._totals = Totals.model_validate(census.count(facts))

    async def finish(self, show: Show) -> Totals:
        while self._thread.is_alive():
            show(self.progress)
            await asyncio.sleep(0.05)
        if self._totals is None:
            raise RuntimeError("the plain count failed; its error is above")
        return self._totals


class Demo:
    """One go at the demo, which may continue an earlier one."""

    def __init__(
        self, place: Path, worker: WorkerProcess, options: Options, open_bar: OpenBar
    ) -> None:
        self._place, self._worker, self._open_bar = place, worker, open_bar
        self._index = place / "index.db"
        root = Path(sysconfig.get_paths()["stdlib"])
        self._library = Library(
            root=root, index=self._index, limit=options.limit, tests=options.tests
        )
        self._files = census.find_files(root, options.limit, options.tests)
        self._killed_at: datetime | None = None

    async def run(self) -> bool:
        """True when the resumed run and the plain count agree."""
        steps = -(-len(self._files) // BATCH)
        _say(f"Indexing {len(self._files):,} files of {self._library.root} in {steps} steps.")
        _say(f"The job's code: {index_stdlib.__file__}\n")
        async with open_app(self._place, worker=False) as durably:
            run = await self._trigger(durably)
            if run is None:
                return False
            if not run.is_final:
                await self._kill_one_worker(durably, run.id)
            plain = PlainCount(self._library.root, self._files)
            with self._open_bar("another worker") as show:
                done = await self._work(durably, run.id, show)
            await self._report(durably, done.id)
            with self._open_bar("plain count") as show:
                expected = await plain.finish(show)
            agree = await self._compare(durably, done, expected)
        _say("\nLook at it:")
        database = shlex.quote(str(self._place / "jobs.db"))
        for words in ("runs list", f"runs show {done.id}", f"logs {done.id}"):
            _say(f"  {_command()} {words} --db {database}")
        return agree

    async def _trigger(self, durably: Durably) -> Run | None:
        handle = durably.register(index_stdlib.index_stdlib)
        run = await handle.trigger(self._library, idempotency_key=KEY)
        if run.input != self._library:
            _say("The demo that was interrupted had other files; --fresh starts over.")
            return None
        if run.disposition == "idempotent":
            steps = len(await durably.get_steps(run.id))
            _say(f"Going on with the run of before: {run.status}, {steps} steps are committed.")
        return run

    async def _kill_one_worker(self, durably: Durably, run_id: str) -> None:
        """Kill a worker in the middle of a step, unless that happened before."""
        batches = int(len(self._files) * _KILL_AFTER) // BATCH
        size = batches * BATCH + _INTO_STEP
        with census.open_index(self._index) as index:
            if index.size() >= size:
                return
            with self._open_bar("a worker") as show:
                run = await self._work(durably, run_id, show, until=lambda: index.size() >= size)
            if run.is_final:
                return  # so few files that there was no middle
            pid = self._worker.pid
            self._worker.kill()
            self._killed_at = datetime.now(UTC)
            indexed = index.size()
        names = [s.name for s in await durably.get_steps(run_id) if s.status == "completed"]
        before = BATCH * sum(name.startswith("index-") for name in names)
        inside, whole = indexed - before, min(BATCH, len(self._files) - before)
        _say(f"Worker {pid} was killed (SIGKILL) after {len(names)} committed steps,")
        _say(f"in the middle of a step: {inside} of its {whole} files were indexed.\n")

    async def _work(
        self,
        durably: Durably,
        run_id: str,
        show: Show,
        until: Callable[[], bool] = lambda: False,
    ) -> Run:
        """Keep a worker going until the run is over, or until the condition holds."""
        while True:
            run = await durably.get_run(run_id)
            assert run is not None
            if run.is_final or until():
                return run
            self._worker.keep_running()
            if run.progress is not None:
                show(run.progress)
            await asyncio.sleep(_LOOK)

    async def _report(self, durably: Durably, run_id: str) -> None:
        events = [event async for event in durably.subscribe(run_id)]
        if self._killed_at is not None:
            starts = [event.timestamp for event in events if isinstance(event, RunStart)]
            later = (starts[-1] - self._killed_at).total_seconds()
            _say(f"The next worker took the run up {later:.1f} s after the kill.")
        with census.open_index(self._index) as index:
            begins = index.begins()
        for line in report.describe(report.attempts(events, begins), begins):
            _say(line)

    async def _compare(self, durably: Durably, done: Run, plain: Totals) -> bool:
        if done.status != Status.COMPLETED:
            _say(f"The run {done.status}: {done.error}")
            return False
        with census.open_index(self._index) as index:
            begins = index.begins()
        steps = await durably.get_steps(done.id)
        totals = Totals.model_validate(done.output)
        wrong = [
            f"{step} was committed, and began again" for step in report.repeated(steps, begins)
        ]
        wrong += report.differences(totals, plain)
        _say(f"\n{totals.modules:,} modules, {totals.classes:,} classes, "
             f"{totals.functions:,} functions, {totals.lines:,} lines; "
             f"{totals.unparsable} files do not parse.")  # fmt: skip
        top = ", ".join(f"{name} ({times})" for name, times in totals.most_imported.items())
        _say(f"Most imported: {top}")
        for line in wrong:
            _say(f"WRONG: {line}")
        if not wrong:
            _say("The count without Durably, in one go, comes to exactly the same.")
        return not wrong
