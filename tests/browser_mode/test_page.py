"""A page that runs jobs: it boots, it works, it is killed in the middle and goes on."""

from __future__ import annotations

import pytest

from tests.tier import TIER

from .browser import Profile, finished, ready, steps, trigger, until_steps
from .site import Site

needs_boots = pytest.mark.skipif(TIER == "quick", reason="boots several times: the ci tier's")


async def test_a_page_works(profile: Profile, site: Site):
    page = await ready(await profile.open())
    for job, input, output in (
        ("quick", {"steps": 20}, 20),
        ("block", {"steps": 2, "seconds": 0.1}, 2),
        ("plain", {"steps": 3}, 3),
        ("own table", {"steps": 3}, [0, 1, 2]),
    ):
        run = await finished(page, await trigger(page, job, **input))
        assert (run["status"], run["output"]) == ("completed", output), run
    run = await finished(page, await trigger(page, "broken"))
    assert run["status"] == "failed"
    assert "what is wrong" in run["error"]
    refused = await page.evaluate("durably.trigger('quick', {steps: 'x'}).catch((e) => e.code)")
    assert refused == "invalid_input"
    assert [phase for phase, _ in await page.evaluate("phases")] == [
        "python", "packages", "jobs", "standby", "database", "ready",
    ]  # fmt: skip
    elsewhere = [path for path in site.requests if "://" in path]
    assert elsewhere == []


@needs_boots
async def test_a_page_killed_in_the_middle_goes_on(profile: Profile, site: Site):
    page = await ready(await profile.open())
    run_id = await trigger(page, "work", steps=10, seconds=0.1)
    await until_steps(page, run_id, 4)
    committed = await steps(page, run_id)
    await profile.kill()
    assert len(committed) < 10

    await profile.start()
    page = await ready(await profile.open())
    run = await finished(page, run_id)
    assert (run["status"], run["output"]) == ("completed", 10)
    begun = site.begun(run_id)
    assert len(begun) <= 11  # the one in flight
    for name in committed:
        assert begun.count(name) == 1
