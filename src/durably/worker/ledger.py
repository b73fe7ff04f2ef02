"""What is known of each step of a run: its result or failure, and whether its name may be used.

A step's name is its identity. What earlier attempts decided is loaded once; a step that has a checkpoint
returns it, and one that failed fails again in the same way, in the same order.

A name can be used once, and again after a failure. It can also be used again when its last call was
cancelled. If that happened during the commit, the step is *in doubt*: the commit may or may not have
happened. The next call of its name commits the same result again, which the store recognizes, so that the
step's function does not run twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set
from typing import Any, cast

from ..errors import DuplicateStepError, StepValueError
from ..jobs.checks import check_name
from ..store.records import Checkpoint, DecidedSteps, Entry
from ..values.codec import Codec, Unstorable
from .attempt import Attempt
from .failure import failure_from_json, members


class Ledger:
    """The steps of one attempt, by name."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._decided = DecidedSteps({}, {})
        self._indexes: dict[str, int] = {}
        self._reusable: set[str] = set()
        self._failures: list[tuple[BaseException, str]] = []
        self._in_doubt: dict[str, Entry] = {}
        self.committed = 0
        """Steps that this attempt has committed."""

    async def load(self) -> None:
        """Load what earlier attempts decided."""
        self._decided = await self._attempt.context.store.decided_steps(self._attempt.run_id)

    @property
    def replayed(self) -> int:
        """How many steps of this attempt have a checkpoint of an earlier one."""
        return len(self._decided.checkpoints.keys() & self._indexes.keys())

    @property
    def unused(self) -> Set[str]:
        """The steps that have a checkpoint, and were not called in this attempt."""
        return self._decided.checkpoints.keys() - self._indexes.keys()

    def begin(self, name: str) -> int:
        """Check that a step may begin; return its index, by the order of first calls."""
        self._attempt.require_open(name)
        check_name("a step's name", name)
        if (index := self._indexes.get(name)) is not None:
            if name not in self._reusable:
                raise DuplicateStepError(
                    f"step {name!r} is used twice in {self._attempt.description}; a step's name is its "
                    "identity, so give each its own, as f'save-{i}'"
                )
            self._reusable.discard(name)
            return index
        self._indexes[name] = index = len(self._indexes)
        return index

    def allow_again(self, name: str) -> None:
        """A call of the step had no result: its name may be used again."""
        self._reusable.add(name)

    # -- results

    def checkpoint(self, name: str) -> Checkpoint | None:
        """The committed result of a step, if it has one."""
        return self._decided.checkpoints.get(name)

    def restore(self, name: str, checkpoint: Checkpoint, codec: Codec[Any]) -> Any:
        """Decode a checkpoint; ``StepValueError`` if the step's type has changed."""
        try:
            return codec.restore(checkpoint.data)
        except Unstorable as problem:
            raise StepValueError(
                f"the checkpoint of step {name!r} of {self._attempt.description} does not fit its type any "
                f"more: {problem}",
                path=problem.path,
            ) from None

    async def commit(self, entry: Entry, *, again: bool = False) -> int:
        """Commit a step's result. If this is cancelled, the step is in doubt."""
        try:
            return await self._attempt.record(entry, again=again)
        except asyncio.CancelledError:
            self.doubt(entry)
            raise

    def doubt(self, entry: Entry) -> None:
        """The commit of a step was cancelled: it may have happened or not."""
        name = cast("str", entry.step)
        self._in_doubt[name] = entry
        self._reusable.add(name)

    def is_in_doubt(self, name: str) -> bool:
        """Whether a commit of the step was cancelled."""
        return name in self._in_doubt

    def resolve(self, name: str) -> None:
        """The step is committed: it is no longer in doubt."""
        self._in_doubt.pop(name, None)

    async def recommit(self, name: str) -> None:
        """Commit the result of a step in doubt again: its function does not run a second time."""
        entry = self._in_doubt[name]
        if entry.data is None:  # only the database knows the result of a transaction
            return
        await self.commit(entry, again=True)
        del self._in_doubt[name]
        self._decided.checkpoints[name] = Checkpoint(entry.step_index or 0, entry.data)

    # -- failures

    def take_failure(self, name: str) -> Exception | None:
        """The error that the step raised in an earlier attempt, if the job has seen it: it is decided, too."""
        failures = self._decided.failures.get(name)
        if not failures:
            return None
        error = failure_from_json(failures.pop(0))
        self.add_failure(name, error)
        return error

    def add_failure(self, name: str, error: BaseException) -> None:
        """The step raises this error to the job."""
        self._reusable.add(name)
        self._failures.append((error, name))

    def step_of(self, error: BaseException) -> str | None:
        """The step whose failure this error is, or was raised from."""
        seen: set[int] = set()
        cause: BaseException | None = error
        while cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            for failed, name in reversed(self._failures):
                if any(leaf is failed for leaf in members(cause)):
                    return name
            cause = cause.__cause__
        return None
