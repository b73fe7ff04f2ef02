"""What is logged about runs, and what users' own records are stamped with."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import threading

import pytest

from durably import Durably, LogContext, Retry, Step, SyncStep
from durably.errors import RunCancelledError, RunFailedError, StorageError
from durably.telemetry.logs import RUNS, format_duration
from durably.telemetry.tracebacks import DEBUG

RESERVED = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


@pytest.fixture
async def durably(tmp_path):
    async with Durably(tmp_path / "a.db", polling_interval=0.05) as durably:
        yield durably


@pytest.fixture
def records(caplog):
    """The records about runs; ``caplog`` has them all."""
    caplog.set_level(logging.INFO, "durably")
    return lambda: [record for record in caplog.records if record.name == RUNS]


def lines(found):
    """Level and message, without the run and without figures of time."""
    return [(r.levelname, r.getMessage().partition(") ")[2] or r.getMessage()) for r in found]


async def test_a_run_is_logged_at_its_start_and_at_its_end(durably, records):
    @durably.job("count")
    async def count(step: Step) -> int:
        return await step.run("one", lambda: 1) + await step.run("two", lambda: 2)

    run = await count.trigger_and_wait(scope="acme")
    await durably.stop(0)
    start, end = records()
    assert start.getMessage() == f"run {run.id} (count) started"
    assert end.getMessage().startswith(f"run {run.id} (count) completed after ")
    assert end.getMessage().endswith(" s (2 steps)")
    for record in (start, end):
        assert record.levelno == logging.INFO
        assert (record.run_id, record.job, record.attempt) == (run.id, "count", 1)
        assert (record.scope, record.step) == ("acme", None)
        assert record.worker.split("-")[0].isdigit()
    assert (end.status, end.steps) == ("completed", 2)
    assert end.duration >= 0


async def test_no_field_is_named_as_one_that_records_have(durably, records):
    @durably.job("fails")
    async def fails(step: Step) -> None:
        await step.run("no", lambda: 1 / 0, retries=Retry(1, delay=0))

    with pytest.raises(RunFailedError):
        await fails.trigger_and_wait()
    await durably.stop(0)
    found = records()
    ours = {name for record in found for name in vars(record)} - RESERVED
    assert ours == {
        "run_id", "job", "step", "attempt", "worker", "scope",
        "status", "duration", "steps", "error_type",
    }  # fmt: skip


async def test_a_retried_step_and_a_failed_run(durably, records, tmp_path):
    def no():
        raise ConnectionError("reset\nby peer")

    @durably.job("fails")
    async def fails(step: Step) -> None:
        await step.run("fetch", no, retries=Retry(1, delay=0))

    with pytest.raises(RunFailedError):
        await fails.trigger_and_wait()
    await durably.stop(0)
    _, retried, failed = records()
    assert (retried.levelno, retried.step, retried.error_type) == (
        logging.WARNING,
        "fetch",
        "ConnectionError",
    )
    assert (
        "step 'fetch' failed (try 1 of 2), next try in 0.00 s: ConnectionError: reset\\nby peer"
        in (retried.getMessage())
    )
    assert (failed.levelno, failed.step, failed.status) == (logging.ERROR, "fetch", "failed")
    assert " failed in step 'fetch' after " in failed.getMessage()
    assert failed.exc_info[0] is ConnectionError
    shown = logging.Formatter().format(failed)
    assert [line for line in shown.splitlines() if "File" in line] == [
        f'  File "{__file__}", line {at}, in {name}'
        for at, name in (
            (fails.definition.fn.__code__.co_firstlineno + 2, "fails"),
            (no.__code__.co_firstlineno + 1, "no"),
        )
    ]


async def test_a_cancelled_run_reads_as_one(durably, records):
    begun = asyncio.Event()

    @durably.job("slow")
    async def slow(step: Step) -> None:
        begun.set()
        await step.run("nap", asyncio.sleep, 3600)

    run = await slow.trigger()
    await begun.wait()
    await durably.cancel(run.id)
    with pytest.raises(RunCancelledError):
        await durably.wait(run)
    await durably.stop(0)
    assert lines(records())[1][1].startswith("was cancelled after ")
    assert [record.levelno for record in records()] == [logging.INFO] * 2
    assert not any(record.exc_info for record in records())


async def test_a_run_that_is_cancelled_elsewhere_as_its_body_ends_reads_as_one(
    durably, records, tmp_path, monkeypatch
):
    """The outcome is refused, though nobody has told this worker why yet."""

    @durably.job("short")
    async def short(step: Step) -> None:
        async with Durably(tmp_path / "a.db", worker=False) as other:
            await other.cancel(step.run_id)

    monkeypatch.setattr("durably.worker.worker.Worker.check_leases", lambda _: None)
    run = await short.trigger()
    with pytest.raises(RunCancelledError):
        await durably.wait(run)
    await durably.stop(0)
    assert [record.levelno for record in records()] == [logging.INFO] * 2
    assert records()[1].status == "cancelled"
    assert durably._engine.metrics.lost["short"] == 0


async def test_a_run_that_is_handed_back_and_resumed(durably, records, tmp_path):
    begun = asyncio.Event()

    @durably.job("slow")
    async def slow(step: Step) -> int:
        await step.run("first", lambda: 1)
        begun.set()
        return await step.run("wait", lambda: 1 if step.attempt > 1 else asyncio.sleep(3600))

    run = await slow.trigger()
    await begun.wait()
    await durably.stop(0)
    handed = records()[-1]
    assert (handed.status, handed.levelno) == ("pending", logging.INFO)
    assert " was handed back after " in handed.getMessage()
    await durably.init()
    await durably.wait(run)
    await durably.stop(0)
    resumed, completed = records()[2:]
    assert resumed.getMessage().endswith(" resumed (attempt 2)")
    assert completed.getMessage().endswith("(2 steps, 1 from checkpoints)")


async def test_a_run_of_a_dead_worker_is_a_warning(tmp_path, records):
    begun = asyncio.Event()
    options = {"polling_interval": 0.02, "heartbeat_interval": 0.05, "stale_threshold": 0.2}
    first = Durably(tmp_path / "a.db", **options)

    @first.job("slow")
    async def slow(step: Step) -> int:
        begun.set()
        await step.run("first", lambda: 1)
        return await step.run("wait", lambda: 1 if step.attempt > 1 else asyncio.sleep(3600))

    await first.init()
    run = await slow.trigger()
    await begun.wait()
    first._engine.session.worker._leases.stop()  # it renews no lease any more
    async with Durably(tmp_path / "a.db", jobs=[slow.definition], **options) as second:
        await second.wait(run.id, timeout=60)
    await first.stop(0)
    assert [record.attempt for record in records() if getattr(record, "status", "") == "lost"] == [
        1
    ]
    taken = next(record for record in records() if record.attempt == 2)
    assert (taken.levelno, taken.run_id) == (logging.WARNING, run.id)
    assert "was taken over from a worker that died or stopped responding" in taken.getMessage()


async def test_nothing_of_a_step_that_goes_well_is_above_debug(durably, caplog):
    caplog.set_level(logging.DEBUG, "durably")

    @durably.job("one")
    async def one(step: Step) -> None:
        await step.run("a", lambda: None)

    await one.trigger_and_wait()
    await durably.stop(0)
    steps = [record for record in caplog.records if record.name == RUNS and record.step == "a"]
    assert [record.levelno for record in steps] == [logging.DEBUG]


@pytest.mark.parametrize("kind", ["filter", "handler"])
async def test_logging_that_raises_harms_no_run(durably, kind, caplog, capsys, monkeypatch):
    caplog.set_level(logging.INFO, "durably")

    def fail(*_):
        raise RuntimeError("the collector is gone")

    logger, handler = logging.getLogger(RUNS), logging.NullHandler()
    if kind == "filter":
        logger.addFilter(fail)
    else:
        handler.handle = fail
        logger.addHandler(handler)

    @durably.job("one")
    async def one(step: Step) -> int:
        return await step.run("a", lambda: 1)

    try:
        assert (await one.trigger_and_wait(timeout=60)).output == 1
    finally:
        logger.removeFilter(fail)
        logger.removeHandler(handler)
    assert "the collector is gone" in capsys.readouterr().err


async def test_logging_that_raises_ends_no_worker(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("the collector is gone")

    async def locked(*_, **__):
        raise StorageError("locked")

    logger = logging.getLogger("durably")
    logger.addFilter(fail)
    durably = Durably(tmp_path / "a.db", polling_interval=0.01)

    @durably.job("one")
    async def one(step: Step) -> int:
        return 1

    try:
        with monkeypatch.context() as patch:
            patch.setattr(durably._engine.store, "claim", locked)
            await durably.init()
            failed = asyncio.Event()
            durably.on("worker:error", lambda _: failed.set())
            run = await one.trigger()
            await asyncio.wait_for(failed.wait(), 30)
        assert (await durably.wait(run.id, timeout=60)).output == 1
    finally:
        await durably.stop(0)
        logger.removeFilter(fail)
    assert "the collector is gone" in capsys.readouterr().err


async def test_what_a_record_factory_sets_is_left_to_it(durably, records):
    def factory(*args, **kwargs):
        record = logging.LogRecord(*args, **kwargs)
        record.run_id = "its own"
        return record

    @durably.job("one")
    async def one(step: Step) -> None:
        pass

    try:
        logging.setLogRecordFactory(factory)
        await one.trigger_and_wait(timeout=60)
    finally:
        logging.setLogRecordFactory(logging.LogRecord)
    await durably.stop(0)
    ended = records()[-1]
    assert "completed" in ended.getMessage()
    assert (ended.run_id, ended.job) == ("its own", "one")


# -- users' own records


def read(stream: io.StringIO):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stamped():
    """Logs with the filter on its handler; what it has written."""
    stream, log = io.StringIO(), logging.getLogger("shop")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        logging.Formatter(
            '{"message": "%(message)s", "run": "%(run_id)s", "job": "%(job)s", "step": "%(step)s", "attempt": "%(attempt)s"}'
        )
    )
    handler.addFilter(LogContext("-"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield log, lambda: read(stream)
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


async def test_records_of_async_jobs_and_their_steps_are_stamped(durably, stamped):
    log, written = stamped

    async def inside() -> None:
        log.info("async step")
        await asyncio.to_thread(log.info, "thread of an async step")

    @durably.job("shop")
    async def shop(step: Step) -> None:
        log.info("job")
        await step.run("a", inside)
        await step.run("b", log.info, "thread")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(step.run("c", log.info, "task"))
        log.info("between")

    log.info("outside")
    run = await shop.trigger_and_wait()
    log.info("after")
    found = {line.pop("message"): line for line in written()}
    nothing = {"run": "-", "job": "-", "step": "-", "attempt": "-"}
    assert found.pop("outside") == found.pop("after") == nothing
    steps = {message: line.pop("step") for message, line in found.items()}
    assert steps == {
        "job": "-", "async step": "a", "thread of an async step": "a", "thread": "b", "task": "c",
        "between": "-",
    }  # fmt: skip
    assert all(line == {"run": run.id, "job": "shop", "attempt": "1"} for line in found.values())


async def test_records_of_plain_jobs_and_their_steps_are_stamped(durably, stamped):
    log, written = stamped

    async def inside() -> None:
        log.info("async")

    @durably.job("shop")
    def shop(step: SyncStep) -> None:
        log.info("job")
        step.run("a", log.info, "plain")
        step.run("b", log.info, "limited", timeout=60)
        step.run("c", inside)
        step.transaction("d", lambda _: log.info("transaction"))
        log.info("between")

    run = await shop.trigger_and_wait()
    assert {line["run"] for line in written()} == {run.id}
    assert [(line["message"], line["step"]) for line in written()] == [
        ("job", "-"), ("plain", "a"), ("limited", "b"), ("async", "c"), ("transaction", "d"), ("between", "-"),
    ]  # fmt: skip


async def test_what_a_record_says_of_itself_is_kept(durably, stamped):
    log, written = stamped

    @durably.job("shop")
    async def shop(step: Step) -> None:
        log.info("own", extra={"job": "mine"})

    run = await shop.trigger_and_wait()
    assert [(line["job"], line["run"]) for line in written()] == [("mine", run.id)]


async def test_a_run_triggered_within_another_has_its_own_stamp(durably, stamped):
    log, written = stamped

    @durably.job("child")
    async def child(step: Step) -> None:
        log.info("child")

    @durably.job("parent")
    async def parent(step: Step) -> str:
        return (await child.trigger()).id

    run = await parent.trigger_and_wait()
    await durably.wait(run.output)
    assert [(line["run"], line["job"]) for line in written()] == [(run.output, "child")]


# -- tracebacks and groups


async def failure_of(durably, fn):
    with pytest.raises(RunFailedError) as caught:
        await durably.job("fails")(fn).trigger_and_wait(timeout=60)
    return caught.value


async def test_a_group_shows_its_leaves_wherever_it_is_shown(durably, records):
    def leaf(kind, text):
        raise kind(text)

    async def fails(step: Step) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(step.run("a", leaf, ValueError, "no page 1"))
            tasks.create_task(step.run("b", leaf, KeyError, "page"))

    error = await failure_of(durably, fails)
    shown = logging.Formatter().format(records()[-1])
    for text in (str(error), str(error.run.error), error.run.error.traceback, shown):
        assert "ValueError: no page 1" in text
        assert "KeyError: 'page'" in text
    assert "ValueError: no page 1; KeyError: 'page'" in records()[-1].getMessage()


async def caused(step: Step) -> None:
    try:
        await step.run("a", int, "x")
    except ValueError as error:
        raise RuntimeError("outer") from error


async def in_context(step: Step) -> None:
    try:
        await step.run("a", int, "x")
    finally:
        raise RuntimeError("outer")


async def late(step: Step) -> None:
    await step.run("a", asyncio.sleep, 60, timeout=0.01)


async def misfit(step: Step) -> None:
    await step.run("a", lambda: (1, 2))


@pytest.mark.parametrize("fn", [caused, in_context, late, misfit])
async def test_tracebacks_hide_the_frames_of_durably_unless_it_is_debugged(
    durably, fn, monkeypatch
):
    short = (await failure_of(durably, fn)).run.error.traceback
    assert __file__ in short
    assert "execution.py" not in short
    assert "jobs/step.py" not in short
    assert short.rstrip().splitlines()[-1].split(":")[0].endswith("Error")
    monkeypatch.setenv(DEBUG, "1")
    run = await durably.jobs["fails"].trigger()
    with pytest.raises(RunFailedError) as caught:
        await durably.wait(run)
    assert "execution.py" in caught.value.run.error.traceback


async def test_a_fault_of_durably_itself_keeps_its_frames(durably, monkeypatch):
    from durably.worker.execution import Execution

    code = compile(
        "def broken(*_): raise AssertionError('a fault')",
        Execution.__init__.__code__.co_filename,
        "exec",
    )
    names = {}
    exec(code, names)
    monkeypatch.setattr(Execution, "_read_input", names["broken"])

    async def job(step: Step) -> None: ...

    traceback = (await failure_of(durably, job)).run.error.traceback
    assert "in broken" in traceback
    assert "execution.py" in traceback


# -- what a stop waits for


@pytest.mark.parametrize("is_configured", [True, False])
async def test_a_stop_that_waits_says_what_for(durably, is_configured, caplog, capsys, monkeypatch):
    monkeypatch.setattr("durably.worker.worker._QUIET", 0.01)
    caplog.set_level(logging.INFO if is_configured else logging.WARNING, "durably")
    begun, said = asyncio.Event(), asyncio.Event()

    @durably.job("slow")
    async def slow(step: Step) -> None:
        begun.set()
        await step.run("nap", said.wait)

    run = await slow.trigger()
    await begun.wait()
    stopping = asyncio.create_task(durably.stop(25))
    shown = ""
    while "is in step 'nap'" not in (caplog.text if is_configured else shown):
        await asyncio.sleep(0.01)
        shown += capsys.readouterr().err
    said.set()
    await stopping
    text = caplog.text if is_configured else shown
    assert "waiting up to 25 s for 1 run to end; Ctrl-C hands back what still runs" in text
    assert f"run {run.id} (slow) is in step 'nap'" in text
    assert ("durably: waiting" in shown) is not is_configured


async def test_a_stop_that_does_not_wait_says_nothing(durably, capsys):
    @durably.job("quick")
    async def quick(step: Step) -> None: ...

    await quick.trigger_and_wait()
    await durably.stop()
    assert capsys.readouterr().err == ""


async def test_cancelling_a_stop_does_not_wait_for_threads_once_runs_are_handed_back(durably):
    begun, go = threading.Event(), threading.Event()

    @durably.job("stuck")
    def stuck(step: SyncStep) -> None:
        step.run("hold", lambda: begun.set() or go.wait(60))

    run = await stuck.trigger()
    await asyncio.to_thread(begun.wait, 60)
    stopping = asyncio.create_task(durably.stop(3600))
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait({stopping})
    assert not go.is_set()
    await durably.migrate()
    assert (await durably.get_run(run.id)).status == "pending"
    go.set()


def test_durations_are_for_people():
    assert [format_duration(s) for s in (0.014, 3.14, 59.96, 185, 7800)] == [
        "0.01 s", "3.1 s", "1 min 0 s", "3 min 5 s", "2 h 10 min",
    ]  # fmt: skip


def test_where_no_logging_is_set_up_a_run_that_fails_is_reported_and_nothing_else(tmp_path):
    program = """
import asyncio
from durably import Durably, Step

async def main():
    async with Durably("app.db") as durably:
        @durably.job
        async def good(step: Step) -> None: ...
        @durably.job
        async def bad(step: Step) -> None:
            raise LookupError("no such page")
        await good.trigger_and_wait()
        run = await bad.trigger()
        async for _ in durably.subscribe(run.id): ...

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert re.match(r"run \S+ \(bad\) failed", done.stderr)
    assert "LookupError: no such page" in done.stderr
