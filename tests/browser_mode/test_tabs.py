"""Several tabs on one database: one owns it, all see it, and the next takes over."""

from __future__ import annotations

import asyncio

from playwright.async_api import Page

from .browser import Profile, finished, ready, trigger, until_phase, until_steps
from .site import Site
from .test_page import needs_boots

pytestmark = needs_boots


async def two_tabs(profile: Profile, **options: object) -> tuple[Page, Page]:
    """The owner, and one whose Python is loaded and waits."""
    owner = await ready(await profile.open(**options))
    other = await ready(await profile.open(**options))
    await until_phase(other, "standby")
    return owner, other


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


async def test_a_tab_that_is_to_be_frozen_gives_way(profile: Profile, site: Site):
    owner, other = await two_tabs(profile)
    run_id = await trigger(owner, "work", steps=30, seconds=0.1)
    await until_heard(other, run_id, "step:complete", 3)
    await owner.evaluate("document.dispatchEvent(new Event('freeze'))")
    await until_phase(other, "ready")
    completed_once(site, run_id, await finished(other, run_id), 1)
    # Awake again it is in line again, and sees what the others do.
    await owner.evaluate("document.dispatchEvent(new Event('resume'))")
    again = await trigger(owner, "quick", steps=5)
    assert (await finished(owner, again))["status"] == "completed"
    await owner.wait_for_function("phases.filter(([p]) => p === 'standby').length === 2")


async def test_a_tab_asleep_beyond_its_lease_goes_on(profile: Profile, site: Site):
    settings = {"heartbeatInterval": 0.2, "staleThreshold": 0.5, "pollingInterval": 0.1}
    page = await ready(await profile.open(settings=settings))
    run_id = await trigger(page, "work", steps=30, seconds=0.1)
    await until_steps(page, run_id, 3)
    with profile.asleep():
        before = len(site.effects)
        await asyncio.sleep(2)
        assert len(site.effects) <= before + 1
    completed_once(site, run_id, await finished(page, run_id), 0)


async def test_a_step_that_blocks_beyond_its_lease_is_kept(profile: Profile):
    settings = {"heartbeatInterval": 0.1, "staleThreshold": 0.3, "pollingInterval": 0.1}
    page = await ready(await profile.open(settings=settings))
    run_id = await trigger(page, "block", steps=3, seconds=1)
    run = await finished(page, run_id)
    assert (run["status"], run["output"]) == ("completed", 3)
    events = await page.evaluate("events.map((e) => e.type)")
    assert events.count("run:start") == 1
    assert events.count("step:start") == 3
