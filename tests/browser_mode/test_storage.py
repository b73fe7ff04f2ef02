"""The disk: full, and free again."""

from __future__ import annotations

from .browser import Profile, finished, ready, trigger
from .test_page import needs_boots

pytestmark = needs_boots


async def test_a_full_disk_delays_and_loses_nothing(profile: Profile):
    page = await ready(await profile.open())
    session = await profile.context.new_cdp_session(page)
    quota = {"origin": profile.url.rstrip("/")}
    used = await page.evaluate("navigator.storage.estimate().then((e) => e.usage)")
    full = {**quota, "quotaSize": used + 2_000_000}
    await session.send("Storage.overrideQuotaForOrigin", full)
    run_id = await trigger(page, "fill", steps=20)
    await page.wait_for_function(
        "durably.transport.request({method: 'GET', path: '/healthz'})"
        ".then(({body}) => body.database === 'unavailable', () => true)"
    )
    run = await page.evaluate("id => durably.run(id)", run_id)  # who looks need not wait
    assert run["status"] == "running"
    await session.send("Storage.overrideQuotaForOrigin", quota)
    run = await finished(page, run_id)
    assert (run["status"], run["output"]) == ("completed", 20)
