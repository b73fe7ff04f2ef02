"""A new release reaches who was here before, whole; and what is kept answers on hosts of every kind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.async_api import Page

from durably.cli import bundle

from .browser import Profile, ready
from .site import Site
from .test_page import needs_boots

REGISTER = "navigator.serviceWorker.register('/sw.js', {updateViaCache: 'none'})"
WATCH = """
navigator.serviceWorker.addEventListener("controllerchange", () => { window.isReplaced = true; });
"""


def released(bundled: Path, folder: Path, number: int) -> Path:
    """Another release of the bundle: another script, and a wheel of another name."""
    shutil.copytree(bundled, folder, copy_function=shutil.copy)
    with (folder / "browser/index.js").open("a") as script:
        script.write(f"\nwindow.release = {number};\n")
    wheels = [path.relative_to(folder).as_posix() for path in folder.glob("wheels/*.whl")]
    manifest = bundle.json.loads((folder / "manifest.json").read_text())
    (ours,) = (wheel for wheel in wheels if wheel.startswith("wheels/durably-"))
    renamed = f"wheels/durably-9.9.{number}-py3-none-any.whl"
    (folder / ours).rename(folder / renamed)
    (folder / "service-worker.js").unlink()
    (folder / "manifest.json").unlink()
    bundle.write_manifest(
        folder, [renamed if wheel == ours else wheel for wheel in manifest["wheels"]]
    )
    bundle.write_service_worker(folder)
    return folder


async def kept(page: Page) -> None:
    """All is kept, once the service worker is there."""
    await page.context.add_init_script(WATCH)
    await page.evaluate(REGISTER)
    await page.wait_for_function("navigator.serviceWorker.controller")


async def shows(page: Page, release: int) -> None:
    await page.wait_for_function("number => document.title === `release ${number}`", arg=release)


async def visit_twice_for(page: Page, release: int) -> None:
    """Come back for the release's service worker, and once more for its files."""
    await page.reload()
    await page.wait_for_function("window.isReplaced")
    await page.reload()
    await shows(page, release)


@pytest.mark.parametrize("caching", ["no-cache", "max-age=86400"])
async def test_a_new_release_reaches_who_comes_back(
    profile: Profile, site: Site, bundled: Path, tmp_path: Path, caching: str
):
    site.caching = caching
    page = await profile.open("release.html")
    await shows(page, 1)
    await kept(page)
    (first,) = await page.evaluate("caches.keys()")
    await page.reload()
    await shows(page, 1)

    site.folders["/durably/"] = released(bundled, tmp_path / "second", 2)
    site.requests.clear()
    await visit_twice_for(page, 2)
    names = await page.evaluate("caches.keys()")
    assert len(names) == 1
    assert names != [first]
    assert not [path for path in site.requests if "pyodide" in path], "what is the same stays"


async def test_a_page_is_shown_without_a_network(profile: Profile, site: Site):
    page = await profile.open("release.html")
    await kept(page)
    site.close()
    await profile.context.set_offline(True)
    page = await profile.open("release.html")
    await shows(page, 1)
    page = await profile.open("release.html?from=a-link")
    await shows(page, 1)


async def test_a_release_that_is_there_in_part_is_not_taken(
    profile: Profile, site: Site, bundled: Path, tmp_path: Path
):
    page = await profile.open("release.html")
    await kept(page)
    second = released(bundled, tmp_path / "second", 2)
    script = second / "browser/index.js"
    whole = script.read_bytes()
    script.write_bytes(whole + b"\n// of yet another release\n")
    site.folders["/durably/"] = second
    failed = """navigator.serviceWorker.getRegistration().then(async (registration) => {
      await registration.update();
      const worker = registration.installing;
      await new Promise((done) => worker.addEventListener("statechange", done));
      return worker.state;
    })"""
    assert await page.evaluate(failed) == "redundant"
    await page.reload()
    await shows(page, 1)
    script.write_bytes(whole)
    await visit_twice_for(page, 2)


@needs_boots
async def test_a_page_that_loads_python_gets_one_release(
    profile: Profile, site: Site, bundled: Path, tmp_path: Path
):
    page = await ready(await profile.open())
    await kept(page)
    second = released(bundled, tmp_path / "second", 2)
    # The host has none of the first release's files any more.
    site.folders["/durably/"] = second
    await page.reload()
    await ready(page)
    await page.wait_for_function("window.isReplaced")
    await page.reload()
    await ready(page)
    assert await page.evaluate("window.release") == 2
