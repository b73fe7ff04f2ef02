"""The shell lines of a page, run as a reader types them: in order, beside the page's files.

What stands for something of the reader's is replaced: ``RUN`` by the id of a run that is there, a server's
address by that of the page's own server or database. ``serve`` and ``worker`` keep running until the page
ends, as in a terminal of their own, and then get Ctrl-C.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from . import blocks as doc

_DATABASE = re.compile(r"postgresql://\S+?/app\b")
_SERVER = re.compile(r"https?://(127\.0\.0\.1:8000|jobs\.example\.com)")
_REFUSED = ("cannot retry run .* it is completed", "no tables")  # as the pages say
_PATIENCE = 60  # seconds, for each line


def lines(block: doc.Block) -> list[list[str]]:
    """The words of each command of a block."""
    whole = block.text.replace("\\\n", " ").splitlines()
    return [words for line in whole if (words := shlex.split(line, comments=True))]


class Shell:
    """Runs lines in one directory; servers go on until ``close``."""

    def __init__(
        self,
        directory: Path,
        environment: dict[str, str],
        programs: Path = Path(sys.executable).parent,
        wheel: Path | None = None,
    ) -> None:
        self._directory, self._programs, self._wheel = directory, programs, wheel
        self._environment = {**environment, "PYTHONUNBUFFERED": "1"}
        self._database = environment.get("DATABASE_URL")
        self._url: str | None = None
        self._running: list[tuple[str, subprocess.Popen[str]]] = []

    def run(self, words: list[str]) -> str:
        """What a command prints. It succeeds; a server prints that it is ready."""
        match words:
            case ["pip", "install", package, *others] if self._wheel is not None:
                install = self._program("python", "-m", "pip", "install", "-qq")
                return self._finish(
                    [*install, package.replace("durably", str(self._wheel)), *others]
                )
            case ["make" | "pip", *_] | ["durably", "browser-bundle", *_]:
                return ""  # tried where it is the subject: it installs, from elsewhere
            case ["durably", "demo"] if self._wheel is None:
                return ""  # by its own tests
            case ["python", *rest]:
                return self._finish(self._program("python", *rest))
            case ["durably", *rest]:
                rest = [self._in_place(word) for word in rest]
                if rest[0] == "copy" and "://" not in rest[1]:
                    # The reader has one.
                    self._finish(self._program("durably", "migrate", "--db", rest[1]))
                if rest[0] == "serve":
                    return self._serve(self._program("durably", *rest))
                if rest[0] == "worker" and "--until-idle" not in rest:
                    return self._start(self._program("durably", *rest), r"worker \S+ on ")
                return self._finish(self._program("durably", *self._with_run(rest)))
            case ["uvicorn", *rest]:
                return self._serve(self._program("uvicorn", *rest))
            case _:
                raise AssertionError(f"{words} cannot be run")

    def _program(self, name: str, *words: str) -> list[str]:
        return [str(self._programs / name), *words]

    def _in_place(self, word: str) -> str:
        if self._database is not None:
            word = _DATABASE.sub(self._database, word)
        return _SERVER.sub(self._url, word) if self._url is not None else word

    def _with_run(self, words: list[str]) -> list[str]:
        if "RUN" not in words:
            return words
        where = [
            word
            for option, value in itertools.pairwise(words)
            if option in ("--db", "--url", "--app", "--header")
            for word in (option, value)
        ]
        found = self._finish(
            self._program("durably", "runs", "list", *where, "--limit=1", "--json")
        )
        (run,) = json.loads(found)
        return [run["id"] if word == "RUN" else word for word in words]

    def _finish(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        refused = any(re.search(text, done.stdout + done.stderr) for text in _REFUSED)
        codes = (0, 1) if refused else (0,)
        assert done.returncode in codes, f"{command} exited with {done.returncode}: {done.stderr}"
        return done.stdout

    def _serve(self, command: list[str]) -> str:
        if "--port" in command:
            at = command.index("--port")
            command = command[:at] + command[at + 2 :]
        line = self._start([*command, "--port", "0"], "http://")
        self._url = line[line.index("http://") :].split("/api")[0].split()[0]
        return line

    def _start(self, command: list[str], ready: str) -> str:
        """Start a server; the line in which it says that it is ready."""
        process = subprocess.Popen(
            command,
            cwd=self._directory,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_with_ctrl_c,
        )
        self._running.append((" ".join(command), process))
        assert process.stdout is not None
        before: list[str] = []
        late = threading.Timer(
            _PATIENCE, process.kill
        )  # else a line that never comes is waited for
        late.start()
        try:
            for line in process.stdout:
                if re.search(ready, line):
                    return line
                before.append(line)
        finally:
            late.cancel()
        raise AssertionError(f"{command} did not start: {''.join(before)}")

    def close(self) -> None:
        """Ctrl-C for each server, which ends well."""
        codes = {line: self._stop(process) for line, process in self._running}
        assert all(code in (0, 130) for code in codes.values()), codes

    def _stop(self, process: subprocess.Popen[str]) -> int:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=_PATIENCE)
        finally:
            process.kill()
        return process.returncode


def _with_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where it is inherited so


@contextlib.contextmanager
def shell(
    directory: Path,
    environment: dict[str, str],
    programs: Path = Path(sys.executable).parent,
    wheel: Path | None = None,
) -> Iterator[Shell]:
    """A shell in ``directory`` whose servers end with it.

    ``programs``: where ``python`` and the others are. ``wheel``: what ``pip install durably`` installs
    there; without it nothing is installed.
    """
    opened = Shell(directory, environment, programs, wheel)
    try:
        yield opened
    finally:
        opened.close()
