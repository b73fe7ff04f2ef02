"""What others hear of several commits that come close together: the most urgent counts."""

import asyncio
from contextlib import ExitStack

import pytest

from durably.runtime import Runtime
from durably.store.base import Notice
from durably.store.sqlite.notifier import Bell


class Standing(Runtime):
    """A clock that stands still: whatever is done is done at once."""

    def monotonic(self) -> float:
        return 1.0


@pytest.mark.parametrize("urgent", [Notice.DUE, Notice.CANCEL])
async def test_an_urgent_ring_right_after_one_for_watchers_is_heard(tmp_path, urgent):
    heard: asyncio.Queue[Notice] = asyncio.Queue()
    one, two = (Bell(tmp_path, f"{name}.bell", Standing()) for name in ("one", "two"))
    with ExitStack() as stack:
        for bell, hears in ((one, lambda _: None), (two, heard.put_nowait)):
            assert bell.hang(hears)
            stack.callback(bell.take_down)
        one.ring(Notice.JOURNAL)
        one.ring(urgent)
        one.ring(Notice.JOURNAL)  # right after: watchers look by themselves
        assert await asyncio.wait_for(heard.get(), 30) is urgent  # read together with the first
        assert heard.empty()
