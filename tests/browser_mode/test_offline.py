"""After one visit no network is needed: the page boots, works, and takes up what it had begun."""

from __future__ import annotations

from .browser import Profile, finished, ready, trigger, until_steps
from .site import Site
from .test_page import needs_boots

pytestmark = needs_boots


async def test_a_page_without_a_network(profile: Profile, site: Site):
    page = await profile.open()
    await page.evaluate("navigator.serviceWorker.register('/sw.js', {updateViaCache: 'none'})")
    await page.evaluate("navigator.serviceWorker.ready.then(() => {})")
    await ready(page)
    run_id = await trigger(page, "slow", steps=10, seconds=0.1)
    await until_steps(page, run_id, 3)
    await profile.kill()
    site.close()

    await profile.start()
    await profile.context.set_offline(True)
    page = await ready(await profile.open())
    assert (await finished(page, run_id))["status"] == "completed"
    again = await trigger(page, "quick", steps=5)
    assert (await finished(page, again))["output"] == 5
