"""A page that runs jobs: it boots, it works, it is killed in the middle and goes on."""

from __future__ import annotations

from .browser import Profile, finished, ready, steps, trigger, until_steps
from .site import Site


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
    begun = [effect for effect in site.effects if effect.startswith(f"{run_id} begin")]
    twice = len(begun) - 10
    assert twice <= 1
    for name in committed:
        assert begun.count(f"{run_id} begin {name.removeprefix('step ')}") == 1
    print(await page.evaluate("phases"))
