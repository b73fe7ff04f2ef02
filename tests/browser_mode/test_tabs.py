"""Several tabs on one database: one owns it, all see it, and the next takes over."""

from __future__ import annotations

import asyncio

from playwright.async_api import Page

from .browser import PATIENCE, Profile, finished, ready, trigger, until_steps
from .site import Site
from .test_page import needs_boots

pytestmark = needs_boots


async def two_tabs(profile: Profile, **options: object) -> tuple[Page, Page]:
    """The owner, and one whose Python is loaded and waits."""
    owner = await ready(await profile.open(**options))
    other = await ready(await profile.open(**options))
    await until_phase(other, "standby")
    return owner, other


async def until_phase(page: Page, phase: str) -> None:
    await page.wait_for_function("phase => phases.some(([p]) => p === phase)", arg=phase)


async def until_heard(page: Page, run_id: str, kind: str, times: int = 1) -> None:
    await page.wait_for_function(
        "([id, kind, n]) => events.filter((e) => e.runId === id && e.type === kind).length >= n",
        arg=[run_id, kind, times],
    )


def completed_once(site: Site, run_id: str, run: dict[str, object], interrupted: int) -> None:
    assert (run["status"], run["output"]) == ("completed", 30), run
    begun = site.begun(run_id)
    assert len(set(begun)) == 30
    assert len(begun) <= 30 + interrupted


async def test_another_tab_takes_over(profile: Profile, site: Site):
    owner, other = await two_tabs(profile)
    run_id = await trigger(other, "work", steps=30, seconds=0.2)
    await until_heard(owner, run_id, "step:complete", 3)
    await until_heard(other, run_id, "step:complete", 3)
    await other.evaluate("""() => {
        let last = performance.now();
        window.gap = 0;
        const watch = async () => {
            for await (const event of durably.subscribeRuns()) {
                if (event.type === "step:complete") {
                    window.gap = Math.max(window.gap, performance.now() - last);
                    last = performance.now();
                }
            }
        };
        void watch();
    }""")
    waiting = asyncio.ensure_future(other.evaluate("id => durably.wait(id)", run_id))
    await until_heard(other, run_id, "step:complete", 5)
    await owner.close()
    await until_phase(other, "ready")
    assert await waiting == {"runId": run_id, "output": 30}
    completed_once(site, run_id, await finished(other, run_id), 1)
    print(f"the longest time between two steps: {await other.evaluate('gap'):.0f} ms")


async def test_a_crashed_tab_is_followed_by_the_next(profile: Profile, site: Site):
    owner, other = await two_tabs(profile)
    run_id = await trigger(owner, "work", steps=30, seconds=0.1)
    await until_heard(other, run_id, "step:complete", 5)
    session = await profile.context.new_cdp_session(owner)
    crashing = asyncio.ensure_future(session.send("Page.crash"))
    completed_once(site, run_id, await finished(other, run_id), 1)
    crashing.cancel()


async def test_a_frozen_tab_lets_another_go_on(profile: Profile, site: Site):
    owner, other = await two_tabs(profile)
    run_id = await trigger(owner, "work", steps=30, seconds=0.1)
    await until_heard(other, run_id, "step:complete", 3)
    frozen = await profile.context.new_cdp_session(owner)
    await frozen.send("Page.setWebLifecycleState", {"state": "frozen"})
    completed_once(site, run_id, await finished(other, run_id), 1)
    await frozen.send("Page.setWebLifecycleState", {"state": "active"})
    # It is in line again, and sees what the others do.
    again = await trigger(owner, "quick", steps=5)
    assert (await finished(owner, again))["status"] == "completed"
    await owner.wait_for_function(
        "phases.filter(([p]) => p === 'standby').length === 2", timeout=PATIENCE
    )


async def test_a_tab_frozen_beyond_its_lease_goes_on(profile: Profile, site: Site):
    settings = {"heartbeatInterval": 0.2, "staleThreshold": 0.5}
    page = await ready(await profile.open(settings=settings))
    run_id = await trigger(page, "work", steps=30, seconds=0.1)
    await until_steps(page, run_id, 3)
    session = await profile.context.new_cdp_session(page)
    await session.send("Page.setWebLifecycleState", {"state": "frozen"})
    await asyncio.sleep(0.3)
    before = len(site.effects)
    await asyncio.sleep(1.5)
    assert len(site.effects) == before, "it is not frozen"
    await session.send("Page.setWebLifecycleState", {"state": "active"})
    completed_once(site, run_id, await finished(page, run_id), 0)
