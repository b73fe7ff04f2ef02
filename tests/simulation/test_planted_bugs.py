"""Planted bugs: a simulation that lets one of them pass would prove nothing."""

import re

import pytest

from durably import execution
from durably.store import sql
from durably.store.writer import Result, Writer

from .world import World

WITHIN = 500  # seeds


def _unfence(*names):
    def plant(statements):
        for name in names:
            text = statements[name]
            fence = r" and (lease_token = :token|status = 'running')"
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
    "a renewal does not prolong": _replace("renew", "due_at = :due_at", "due_at = due_at"),
    "a claim ignores what is due": _replace("due", "due_at <= :now", "due_at < 9007199254740991"),
    "a claim keeps the old token": _replace(
        "claim", "lease_token = :token", "lease_token = coalesce(lease_token, :token)"
    ),
    "a key is never handed on": _replace("unpark", "where id =", "where id = 'nobody' and id ="),
    "a key is handed to the youngest": _replace("unpark", "order by created_at, id", "order by id desc"),
    "a key is handed to another scope": _replace("unpark", "scope = :scope and", ""),
    "a key is held for another scope": _replace("busy", "scope = :scope and", ""),
    "a cancel stops nothing": _replace("cancel", "status = 'cancelled'", "status = status"),
    "a retry revives what completed": _replace("retry", "('cancelled', 'failed')", "('cancelled', 'failed', 'completed')"),
    "a purge deletes what was retried": _replace("delete_run", "and status in", "or status in"),
    "checkpoints are lost": _replace("checkpoints", "type = 'step:complete'", "type = 'step:fail'"),
}  # fmt: skip


MIX = {
    "a stale failure is accepted": ("doomed",),
    "a stale release is accepted": ("line",),
    "a stale completion is accepted": ("line",),
}  # what shows some bugs sooner


def _caught(plant=lambda _: None, mix=("line", "fan", "flaky", "doomed"), **world):
    for seed in range(WITHIN):
        if found := World(seed, plant=plant, mix=mix, **world).run().violations:
            return seed, found[0]
    return None


def test_without_a_bug_nothing_is_caught():
    for seed in range(50):
        assert World(seed).run().violations == []


@pytest.mark.parametrize("bug", STATEMENTS)
def test_a_bug_in_a_statement_is_caught(bug):
    assert _caught(STATEMENTS[bug], MIX.get(bug, ("line", "fan", "flaky", "doomed"))), bug


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
    for name in ("record", "settle", "claim"):
        original = getattr(sql, name)
        monkeypatch.setattr(
            sql, name, lambda *args, replay=False, original=original: original(*args)
        )
    assert _caught()


def test_ignoring_checkpoints_is_caught(monkeypatch):
    async def none(self, run_id):
        return {}

    monkeypatch.setattr("durably.store.sqlite.SQLiteStore.checkpoints", none)
    assert _caught()


def test_waking_without_asking_whose_run_it_is_is_caught(monkeypatch):
    async def trusting(self):
        return

    monkeypatch.setattr(execution.Execution, "_make_sure", trusting)
    assert _caught(mix=("fan",), pauses=True)
