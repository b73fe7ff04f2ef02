"""One program, several processes: who each of them is, what a child keeps, how they find each other."""

import asyncio
import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from durably import Durably, Step, job
from durably.runtime import Runtime
from durably.store.sqlite.notifier import Presence, presence

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@job("quick")
async def quick(step: Step) -> int:
    return await step.run("one", lambda: 1)


def _python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_workers_forked_from_one_instance_are_two(tmp_path):
    code = """
        import asyncio, os, sys
        from durably import Durably
        durably = Durably(sys.argv[1])
        async def main():
            async with durably:
                print(durably._engine.session.name, durably._engine.runtime.random.random(), flush=True)
                await asyncio.sleep(60)
        for _ in range(2):
            if os.fork() == 0:
                asyncio.run(main())
        os.wait()
    """
    with _python(code, tmp_path / "a.db") as parent:
        try:
            said = [parent.stdout.readline().split() for _ in range(2)]
            names, numbers = zip(*said, strict=True)
            assert len(set(names)) == len(set(numbers)) == 2
            found = [presence(tmp_path / "a.db-durably" / name) for name in names]
            assert found == [Presence.ALIVE] * 2
        finally:
            for name, _ in said:
                os.kill(int(name.partition("-")[0]), 9)


async def test_an_open_instance_says_in_a_fork_what_to_do(tmp_path):
    async with Durably(tmp_path / "app.db") as durably:
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            for call in (durably.init, durably.stop, durably.get_runs):
                coroutine = call()
                try:
                    coroutine.send(None)
                except BaseException as error:
                    os.write(writing, f"{type(error).__name__}: {error}\n".encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading) as answers:
            lines = answers.read().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("ForkedError") and "another Durably" in line for line in lines)


def test_chance_is_not_shared_with_a_fork():
    runtime = Runtime()
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, repr(runtime.random.random()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert said.read() != repr(runtime.random.random())


async def test_a_child_that_outlives_its_worker_holds_neither_lock_nor_bell(tmp_path):
    code = """
        import asyncio, os, sys
        from durably import Durably
        async def main():
            async with Durably(sys.argv[1]) as durably:
                assert durably._engine.store._checkpointer.elected
                if os.fork() == 0:
                    print(os.getpid(), durably._engine.session.name, flush=True)
                    sys.stdin.read()
                    os._exit(0)
                await asyncio.sleep(60)
        asyncio.run(main())
    """
    with _python(code, tmp_path / "a.db") as worker:
        child, name = worker.stdout.readline().split()
        assert presence(tmp_path / "a.db-durably" / name) is Presence.ALIVE
        worker.kill()
        worker.wait()
        try:
            assert presence(tmp_path / "a.db-durably" / name) is Presence.DEAD
            async with Durably(tmp_path / "a.db") as durably:
                assert durably._engine.store._writer.checkpoints
        finally:
            os.kill(int(child), 9)


@pytest.mark.parametrize("works", [True, False])
async def test_a_bell_that_was_removed_is_hung_again(tmp_path, works):
    async with (
        Durably(tmp_path / "a.db", jobs=[quick], polling_interval=0.05, worker=works) as one,
        Durably(tmp_path / "a.db", jobs=[quick], worker=False) as two,
    ):
        bell = tmp_path / "a.db-durably" / one._engine.session.name
        shutil.rmtree(tmp_path / "a.db-durably")
        async with asyncio.timeout(20):
            while presence(bell) is not Presence.ALIVE:
                await asyncio.sleep(0.01)
        rung = asyncio.Event()
        one._engine.session.notifier.take_down()
        one._engine.session.notifier.hang(lambda _: rung.set())
        two._engine.session.notifier.look_after()
        await two.get_job("quick").trigger()
        await asyncio.wait_for(rung.wait(), 20)


async def test_a_path_too_long_for_a_socket_has_a_bell_nonetheless(tmp_path):
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    async with Durably(folder / "a.db", worker=False) as durably:
        assert durably._engine.session.notifier._socket is not None
        bell = folder / "a.db-durably" / durably._engine.session.name
        assert presence(bell) is Presence.ALIVE
    assert not bell.exists()
    assert presence(bell) is Presence.UNKNOWN


async def test_a_bell_that_cannot_be_hung_is_told_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("durably.store.sqlite.notifier._DESCRIPTORS", tmp_path / "none")
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    async with Durably(folder / "a.db", worker=False) as durably:
        for _ in range(3):
            durably._engine.session.notifier.look_after()
    assert caplog.text.count("cannot wake this one") == 1


async def test_an_instance_without_a_worker_notices_that_its_file_is_gone(tmp_path, caplog):
    async with Durably(tmp_path / "a.db", worker=False, polling_interval=0.02) as durably:
        os.rename(tmp_path / "a.db", tmp_path / "b.db")
        async with asyncio.timeout(20):
            while "was deleted or replaced" not in caplog.text:
                await asyncio.sleep(0.01)
        assert (await durably.health()).database == "unavailable"
