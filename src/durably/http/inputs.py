"""The inputs that triggers bring, as the types of their jobs, and the description of a job."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ..jobs.job import NO_INPUT, Job
from ..jobs.trigger import bad_input, missing_input
from ..values.codec import Unstorable
from ..values.text import dump_json, load_json
from ..wire.requests import TriggerRequest
from ..wire.runs import JobInfo
from .message import Refusal


def parse_input(job: Job[Any, Any], request: TriggerRequest, limit: int) -> Any:
    """Parse an input as the job's type. A job without input accepts ``{}``, as a missing one is."""
    given = request.input
    if given == {} and not request.has_input:
        if job.default is not None:
            return NO_INPUT
        for empty in ("{}", "null"):
            with suppress(Unstorable):
                return job.input.parse(empty)
        raise missing_input(job, 'send one as "input"')
    if not job.takes_input and given == {}:
        given = None
    text = dump_json(given)
    if len(text) > limit:
        message = f"input must be at most {limit:,} bytes as ASCII JSON, got {len(text):,}"
        raise Refusal(413, "too_large", message)
    try:
        return job.input.parse(text)
    except Unstorable as problem:
        raise bad_input(job, problem) from None


def decode_stored(job: Job[Any, Any], text: str) -> Any:
    """Decode an input that a run has stored."""
    try:
        return job.input.decode(text)
    except Unstorable as problem:
        raise bad_input(job, problem) from None


def job_info(job: Job[Any, Any]) -> JobInfo:
    """Describe a job with the JSON Schemas of its values."""
    input = job.input.schema()
    if job.default is not None:
        input = {**input, "default": load_json(job.default)}
    return JobInfo(job.name, input, job.output.schema(written=True))
