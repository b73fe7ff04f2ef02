"""The job: a film of 24 frames, each frame a step."""

import asyncio
import os

from pydantic import BaseModel

from durably import Step, job

FRAMES = 24
PAUSE = float(os.environ.get("PAUSE", "0.3"))  # seconds a frame, for there to be something to see
WORKER = os.environ.get("WORKER", "?")


class Frame(BaseModel):
    """A frame that was rendered, and by whom."""

    number: int
    worker: str


@job("render")
async def render(step: Step, film: str) -> dict[str, int]:
    """Render a film; how many frames each worker made."""

    async def draw(number: int) -> Frame:
        await asyncio.sleep(PAUSE)
        step.log.info("rendered", {"frame": number, "worker": WORKER})
        return Frame(number=number, worker=WORKER)

    made: dict[str, int] = {}
    for number in range(FRAMES):
        frame = await step.run(f"frame-{number}", draw, number)
        made[frame.worker] = made.get(frame.worker, 0) + 1
        step.progress(number + 1, FRAMES)
    return made
