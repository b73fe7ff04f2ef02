"""Planted bugs: a simulation that lets one of them pass would prove nothing."""

import re

import pytest

from durably.store import claiming, journal, transactions
from durably.store.records import DecidedSteps
from durably.store.sqlite.writer import Result, Writer
from durably.worker.attempt import Attempt

from .world import World

WITHIN = 500  # seeds


def _unfence(*names):
    def plant(statements):
        for name in names:
            text = statements[name]
            fence = r" and (lease_token = :token|status = 'running'|\(status = 'running' or held_until is not null\))"
            if name in ("complete", "fail", "release"):
                fence = r" and lease_token = :token"
            statements[name], count = re.subn(fence, "", text)
            assert count, name

    return plant


def _replace(name, old, new):
    def plant(statements):
        assert old in statements[name], name
        statements[name] = statements[name].replace(old, new)

    return plant


STATEMENTS = {
    "a stale step is accepted": _unfence("record"),
    "a stale completion is accepted": _unfence("complete"),
    "a stale failure is accepted": _unfence("fail"),
    "a stale release is accepted": _unfence("release"),
    "a stale progress is accepted": _unfence("progress"),
    "a stale renewal is accepted": _unfence("renew"),
    "a renewal does not prolong": _replace("renew", "then :due_at end", "then due_at end"),
    "a claim ignores what is due": _replace("due", "due_at <= :now", "due_at < 9007199254740991"),
    "a claim keeps the old token": _replace(
        "claim", "lease_token = :token", "lease_token = coalesce(lease_token, :token)"
    ),
    "a key is never handed on": _replace("unpark", "where id =", "where id = 'nobody' and id ="),
    "a cancelled run frees its key at once": _replace("cancel", "key_slot = case when", "key_slot = case when false and"),
    "a cancelled run is due as soon as it is retried": _replace("retry", "when held_until > :now then held_until", "when false then 0"),
    "a hold ends before it lapses": _replace("evict", "and held_until <= :now", ""),
    "nobody looks again when a hold lapses": _replace("heir", "where due_at >", "where due_at < 0 and due_at >"),
    "a heartbeat does not prolong a hold": _replace("renew", "held_until = case when held_until is not null then :due_at end", "held_until = held_until"),
    "a key is handed to the youngest": _replace("unpark", "order by created_at, id", "order by id desc"),
    "a key is handed to another scope": _replace("unpark", "scope = :scope and", ""),
    "a key is held for another scope": _replace("key_holders", "scope = :scope and", ""),
    "a cancel stops nothing": _replace("cancel", "status = 'cancelled'", "status = status"),
    "a retry revives what completed": _replace("retry", "('cancelled', 'failed')", "('cancelled', 'failed', 'completed')"),
    "a purge deletes what was retried": _replace("delete_run", "and status in", "or status in"),
    "failures are tried again": _replace("decided", "'step:fail', ", ""),
    "checkpoints are lost": _replace("decided", "'step:complete', ", ""),
}  # fmt: skip


OF_CANCELS = {
    "a cancelled run frees its key at once",
    "a cancelled run is due as soon as it is retried",
    "a hold ends before it lapses",
    "a heartbeat does not prolong a hold",
}
MIXED = ("line", "fan", "flaky", "doomed", "saga")
MIX = {
    "a stale failure is accepted": ("doomed",),
    "a stale release is accepted": ("line",),
    "a stale completion is accepted": ("line",),
}  # what shows some bugs sooner


SHOWN_BY = {
    "a stale completion is accepted": 91,
    "a stale failure is accepted": 15,
    "a stale release is accepted": 82,
    "a stale progress is accepted": 17,
    "a cancelled run frees its key at once": 10,
    "a hold ends before it lapses": 45,
    "nobody looks again when a hold lapses": 73,
    "a heartbeat does not prolong a hold": 45,
    "a key is handed to another scope": 95,
}
"""Seeds that showed a bug when they were last searched for; any other seed may show it just as well."""


def _caught(plant=lambda _: None, mix=MIXED, first=0, **world):
    for seed in (first, *range(WITHIN)):
        if found := World(seed, plant=plant, mix=mix, **world).run().violations:
            return seed, found[0]
    return None


@pytest.mark.parametrize("bug", STATEMENTS)
def test_a_bug_in_a_statement_is_caught(bug):
    first = SHOWN_BY.get(bug, 0)
    assert _caught(STATEMENTS[bug], MIX.get(bug, MIXED), first, cancels=bug in OF_CANCELS), bug


def test_acknowledging_before_the_commit_is_caught(monkeypatch):
    def eager(self, batch):
        results = original(self, batch)
        if results is None and all(operation.atomic for operation in batch):
            return [Result(operation, 0, None) for operation in batch]  # as if it were written
        return results

    original = Writer._try
    monkeypatch.setattr(Writer, "_try", eager)
    assert _caught()


def test_failing_runs_for_storage_trouble_is_caught(monkeypatch):
    def impatient(self, batch):
        error = OSError("the disk is full")
        return [], [Result(operation, None, error) for operation in batch]

    monkeypatch.setattr(Writer, "_patient", impatient)
    assert _caught()


def test_forgetting_that_a_commit_may_have_happened_is_caught(monkeypatch):
    for module, name in ((journal, "record"), (transactions, "settle"), (claiming, "claim")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, replay=False, original=original: original(*args)
        )
    assert _caught()


def test_ignoring_checkpoints_is_caught(monkeypatch):
    async def none(self, run_id):
        return DecidedSteps({}, {})

    monkeypatch.setattr("durably.store.sqlite.store.SQLiteStore.decided_steps", none)
    assert _caught()


def test_waking_without_asking_whose_run_it_is_is_caught(monkeypatch):
    async def trusting(self):
        return

    monkeypatch.setattr(Attempt, "confirm_lease", trusting)
    assert _caught(mix=("fan",), first=126, pauses=True)
