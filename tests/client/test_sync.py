"""The blocking client: the same calls, from any thread, and none that hangs when it is closed."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from durably.client import DurablyClient, SyncDurablyClient
from durably.errors import ClosedError, RunCancelledError, RunFailedError, RunNotFoundError
from durably.events import Resync
from tests.tier import by_tier

from .places import Server


@pytest.fixture
def client(shared: Server) -> Iterator[SyncDurablyClient]:
    with SyncDurablyClient(shared.url) as client:
        yield client


def test_it_has_every_call_of_the_other() -> None:
    others = {"close"}  # awaited there, and the same here
    for name, method in vars(DurablyClient).items():
        if name[0] == "_" or name in others:
            continue
        mine = getattr(SyncDurablyClient, name)
        assert not inspect.iscoroutinefunction(inspect.unwrap(mine)) or hasattr(mine, "__wrapped__")
        theirs = inspect.signature(method).parameters
        assert list(inspect.signature(mine).parameters) == list(theirs), name
        assert (mine.__doc__ or "").strip(), name
    options = inspect.signature(DurablyClient).parameters
    assert inspect.signature(SyncDurablyClient).parameters == options


def test_a_run_from_its_trigger_to_its_deletion(client: SyncDurablyClient, app: Any) -> None:
    run = client.trigger(app.work, app.Wanted(steps=3), labels={"by": "sync"})
    told = [event.type for event in client.subscribe(run.id)]
    assert (told[0], told[-1]) == ("run:trigger", "run:complete")
    assert client.wait(run, timeout=60).output == app.Done(count=3)
    assert client.trigger_and_wait(app.work, app.Wanted(steps=1)).output == app.Done(count=1)
    assert [found.id for found in client.get_runs(labels={"by": "sync"})] == [run.id]
    assert [found.id for found in client.iter_runs(labels={"by": "sync"})] == [run.id]
    assert len(client.get_steps(run.id)) == len(client.get_logs(run.id)) == 3
    assert [job.name for job in client.get_jobs()] == ["work", "hold", "by-default"]
    again = client.retrigger(run.id)
    assert client.wait(again.id).output == {"count": 3}
    client.delete_run(run.id)
    assert client.get_run(run.id) is None
    with pytest.raises(RunNotFoundError):
        client.wait(run.id)


def test_failures_and_cancels_are_raised_here(client: SyncDurablyClient) -> None:
    failing = client.trigger("work", {"steps": 0, "fails_without": "never"})
    with pytest.raises(RunFailedError, match="no never"):
        client.wait(failing)
    assert client.retry(failing.id).id == failing.id
    held = client.trigger("hold")
    assert client.cancel(held.id).status == "cancelled"
    with pytest.raises(RunCancelledError):
        client.wait(held)


def test_many_threads_share_it(client: SyncDurablyClient, app: Any) -> None:
    with ThreadPoolExecutor(16) as threads:
        runs = list(
            threads.map(lambda i: client.trigger_and_wait(app.work, app.Wanted(steps=i)), range(16))
        )
    assert [run.output for run in runs] == [app.Done(count=i) for i in range(16)]


def test_an_iteration_may_be_left(client: SyncDurablyClient) -> None:
    run = client.trigger("hold")
    for event in client.subscribe(run.id):
        assert event.type == "run:trigger"
        break
    listing = client.subscribe_runs()
    assert next(listing) == Resync()
    listing.close()  # type: ignore[attr-defined]
    client.cancel(run.id)


def test_closing_it_lets_nobody_hang(shared: Server) -> None:
    client = SyncDurablyClient(shared.url)
    run = client.trigger("hold")
    raised: list[BaseException] = []

    def waits() -> None:
        try:
            client.wait(run)
        except BaseException as error:
            raised.append(error)

    def follows() -> None:
        try:
            list(client.subscribe(run.id))
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=target) for target in (waits, follows)]
    for thread in threads:
        thread.start()
    assert next(client.subscribe(run.id)).type == "run:trigger"
    client.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert [type(error) for error in raised] == [ClosedError, ClosedError]
    client.close()
    with pytest.raises(ClosedError):
        client.get_jobs()
    with SyncDurablyClient(shared.url) as other:
        assert repr(other) == f"SyncDurablyClient('{shared.url}')"
        other.cancel(run.id)


def test_an_iteration_that_outlives_its_client(shared: Server) -> None:
    with SyncDurablyClient(shared.url) as client:
        run = client.trigger("hold")
        iteration = client.subscribe(run.id)
        assert next(iteration).type == "run:trigger"
        client.cancel(run.id)
    with pytest.raises(ClosedError):
        list(iteration)


def test_closing_it_while_others_call(shared: Server) -> None:
    """At any moment of their calls: each ends, with an answer or with ``ClosedError``."""
    for _ in range(by_tier(quick=10, ci=50, soak=1000)):
        client = SyncDurablyClient(shared.url)
        client.get_jobs()

        def calls(client: SyncDurablyClient = client) -> None:
            with suppress(ClosedError):
                while True:
                    client.get_jobs()

        threads = [threading.Thread(target=calls) for _ in range(4)]
        for thread in threads:
            thread.start()
        client.close()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()


def test_one_that_was_never_used_is_closed_too(shared: Server) -> None:
    before = threading.active_count()
    with SyncDurablyClient(shared.url):
        assert threading.active_count() == before
