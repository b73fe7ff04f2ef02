"""T17: a run of 100 steps, and the browser is killed again and again. Nothing that was told is lost."""

from __future__ import annotations

import random

import pytest

from .browser import Profile, finished, ready, steps, trigger
from .site import Site

KILLS = 50
STEPS = 100

TELL = """() => {
    const tell = async () => {
        for await (const event of durably.subscribeRuns()) {
            if (event.type === "step:complete") {
                const body = `${event.runId} commit ${event.stepIndex}`;
                fetch("/effect", { method: "POST", body });
            }
        }
    };
    void tell();
}"""


@pytest.mark.soak
async def test_nothing_is_lost_in_fifty_kills(profile: Profile, site: Site):
    chance = random.Random(17)
    run_id, kills = "", 0
    while kills < KILLS:
        page = await ready(await profile.open())
        await page.evaluate(TELL)
        if not run_id or len(await steps(page, run_id)) == STEPS:
            run_id = await trigger(page, "work", steps=STEPS, seconds=0.2)
        await page.wait_for_timeout(chance.uniform(50, 1_200))
        if chance.random() < 0.5:
            await profile.kill()
            await profile.start()
        else:
            await profile.kill_pages()
        kills += 1
    page = await ready(await profile.open())
    run = await finished(page, run_id)
    assert (run["status"], run["output"]) == ("completed", STEPS)
    runs = {effect.split()[0] for effect in site.effects}
    for id in runs:
        check(site.effects, id)
    begun = [effect for effect in site.effects if " begin " in effect]
    again = len(begun) - len(set(begun))
    print(f"{kills} kills, {len(runs)} runs, {len(begun)} steps begun, {again} of them again")


def check(effects: list[str], run_id: str) -> None:
    """Every step was begun; none after it was told as committed."""
    committed: set[str] = set()
    begun: set[str] = set()
    for effect in effects:
        id, what, number = effect.split()
        if id != run_id:
            continue
        if what == "commit":
            committed.add(number)
        else:
            assert number not in committed, f"step {number} of {run_id} began again"
            begun.add(number)
    assert begun == {str(number) for number in range(STEPS)}


def test_what_is_forbidden_is_found():
    told = [f"id begin {number}" for number in range(STEPS)]
    check([*told, "id begin 3", "id commit 3"], "id")
    with pytest.raises(AssertionError, match="step 3 of id began again"):
        check([*told, "id commit 3", "id begin 3"], "id")
    with pytest.raises(AssertionError):
        check(told[1:], "id")
