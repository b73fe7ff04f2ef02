"""``durably run``: results, exit codes, and Ctrl-C with a key that resumes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

from .conftest import Place, wait_for

HELD = '{"steps": ["one", "two", "hold", "four"]}'


def test_the_result_goes_to_stdout_as_json(place: Place) -> None:
    done = place.durably("run", "app:work", '{"steps": ["a", "b"]}')
    assert (done.code, done.json, done.err) == (0, {"count": 2}, "")
    assert (place.path / "jobs.db").exists(), "a handle's run goes where its instance keeps them"


def test_a_job_of_no_instance_runs_on_the_default_database(place: Place) -> None:
    done = place.durably("run", "app:loose", "--json")
    assert done.code == 0
    run = done.json
    assert (run["status"], run["output"], run["attempt"]) == ("completed", 7, 1)
    assert (place.path / "durably.db").exists()


def test_the_input_may_come_from_stdin(place: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "durably.cli", "run", "app:work", "-", "--db", "other.db"],
        input='{"steps": []}',
        capture_output=True,
        text=True,
        cwd=place.path,
    )
    assert (done.returncode, done.stdout) == (0, '{\n  "count": 0\n}\n')


def test_a_failed_run_is_resumed_by_its_key(place: Place) -> None:
    words = ("run", "app:work", '{"steps": ["a"], "fails_without": "luck"}', "--key", "k")
    failed = place.durably(*words)
    assert failed.code == 1
    assert "failed: ValueError: no \\x1b[2Jluck" in failed.err
    assert failed.err.count("\n") == 1
    (place.path / "luck").touch()
    assert place.durably(*words).code == 0
    assert place.effects() == ["a"], "its checkpoint was used"
    again = place.durably(*words, "--json")
    assert (again.code, again.json["attempt"]) == (0, 2), "a completed run is only shown"


def test_a_known_key_keeps_its_input(place: Place) -> None:
    place.durably("run", "app:work", '{"steps": ["a"]}', "--key", "k")
    done = place.durably("run", "app:work", '{"steps": ["a", "b"]}', "--key", "k")
    assert (done.code, done.json) == (0, {"count": 1})
    assert "key 'k' is known" in done.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_hands_back_and_the_same_key_resumes(
    place: Place, number: signal.Signals, code: int
) -> None:
    first = place.start("run", "app:work", HELD, "--key", "k")
    wait_for(lambda: "hold" in place.effects())
    first.send(number)
    left = first.end()
    assert (left.code, left.out) == (code, "")
    assert "handed back; the same --key k resumes it" in left.err
    place.go()
    done = place.durably("run", "app:work", HELD, "--key", "k", "--json")
    assert done.code == 0
    assert (done.json["output"], done.json["attempt"]) == ({"count": 4}, 2)
    assert place.effects() == ["one", "two", "hold", "hold", "four"]


def test_a_cancelled_run_is_told_of_and_resumed_by_its_key(place: Place) -> None:
    words = ("run", "app:work", HELD, "--key", "k", "--json")
    first = place.start(*words)
    wait_for(lambda: "hold" in place.effects())
    run = place.durably("runs", "list", "--db", "jobs.db", "--json").json[0]
    assert place.durably("runs", "cancel", run["id"], "--db", "jobs.db").code == 0
    cancelled = first.end()
    assert (cancelled.code, cancelled.json["status"]) == (1, "cancelled")
    place.go()
    assert place.durably(*words).code == 0
    assert place.effects() == ["one", "two", "hold", "hold", "four"]


@pytest.mark.parametrize("rich", [True, False])
def test_progress_is_shown_on_a_terminal_only(place: Place, rich: bool) -> None:
    without = "" if rich else "sys.modules['rich'] = None; "
    code = f"import sys; {without}from durably.cli import main; sys.exit(main())"
    parent, child = pty.openpty()
    held = '{"steps": ["one", "hold"]}'
    running = subprocess.Popen(
        [sys.executable, "-c", code, "run", "app:work", held],
        cwd=place.path,
        stdout=subprocess.PIPE,
        stderr=child,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"},
    )
    os.close(child)
    wait_for(lambda: "hold" in place.effects())
    drawn = b""
    while b"50%" not in drawn:
        drawn += os.read(parent, 1000)
    place.go()
    while True:
        try:
            drawn += os.read(parent, 1000)
        except OSError:  # the other side is closed
            break
    assert (running.wait(), running.communicate()[0]) == (0, b'{\n  "count": 2\n}\n')
    assert b"work" in drawn
    assert (b"[###" in drawn) is not rich
    os.close(parent)


def test_an_input_that_is_not_given_is_the_default(place: Place) -> None:
    (place.path / "defaults.py").write_text(
        "from durably import Step, job\n\n"
        "@job('by-default')\n"
        "async def by_default(step: Step, n: int = 5) -> int:\n"
        "    return n\n"
    )
    assert place.durably("run", "defaults:by_default").json == 5
    assert place.durably("run", "defaults:by_default", "6").json == 6
