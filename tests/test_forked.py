"""A forked program is what a started one is."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests import forked

PROGRAM = """
import json, os, signal, sys, warnings
if sys.argv[1] == "wait":
    print("waiting", flush=True)
    signal.pause()
if sys.argv[1] == "exit":
    sys.exit(int(sys.argv[2]))
if sys.argv[1] == "raise":
    raise ValueError("no")
ignored = [n for n in (signal.SIGHUP, signal.SIGTERM) if signal.getsignal(n) == signal.SIG_IGN]
descriptors = sorted(os.listdir("/proc/self/fd"), key=int) if os.path.exists("/proc") else []
print(json.dumps({"name": __name__, "words": sys.argv[1:], "cwd": os.getcwd(), "given": os.environ.get("GIVEN"),
                  "shell": "PATH" in os.environ, "ignored": ignored, "descriptors": len(descriptors),
                  "strict": warnings.filters[0][0]}))
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "forked_program.py").write_text(PROGRAM)

    def run(*words, **options):
        with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
            return forked.start(
                "forked_program", *words, cwd=tmp_path, stdout=out.fileno(), stderr=err.fileno(), **options
            )  # fmt: skip

    return run


def test_it_has_its_arguments_directory_environment_and_streams(run, tmp_path):
    assert run("a", "b c", env={"GIVEN": "1"}, warn="error").wait() == 0
    said = json.loads((tmp_path / "out").read_text())
    assert said.pop("descriptors") <= 4  # its streams, and the directory that it lists
    assert said == {
        "name": "__main__", "words": ["a", "b c"], "cwd": os.path.realpath(tmp_path), "given": "1",
        "shell": False, "ignored": [], "strict": "error",
    }  # fmt: skip


def test_its_exit_code_is_told(run, tmp_path):
    assert run("exit", "7").wait() == 7
    assert run("raise").wait() == 1
    assert (tmp_path / "err").read_text().endswith("ValueError: no\n")


def test_it_ends_by_a_signal_and_not_by_one_that_is_ignored(run):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    waiting = run("wait")
    signal.signal(signal.SIGHUP, before)
    waiting.send_signal(signal.SIGHUP)
    assert waiting.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.01)
    waiting.kill()
    assert waiting.wait() == waiting.poll() == -signal.SIGKILL


def test_programs_end_with_who_started_them(tmp_path):
    """However that ends."""
    (tmp_path / "forked_program.py").write_text(PROGRAM)
    starter = (
        "import os, sys; from tests import forked\n"
        f"forked.start('forked_program', 'wait', cwd={str(tmp_path)!r}, stdout=1, stderr=2)\n"
        "sys.stdin.read(); os._exit(9)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter], cwd=forked.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"waiting\n"
        process.stdin.close()
        assert process.stdout.read() == b"", "the pipe is closed when nobody is left that has it"
    assert process.returncode == 9
