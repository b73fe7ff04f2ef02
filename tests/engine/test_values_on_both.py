"""Whatever text and numbers a user has: a file and a server give the same back, or refuse it in the same words."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durably import Durably, Step
from tests import postgres
from tests.tier import by_tier

EXAMPLES = by_tier(quick=5, ci=25, soak=2000)
TEXTS = [
    "", " ", "\x00", "a\x00b", "\ud800", "\udfff\ud800", "\ud83d\ude00", "é", "e\u0301", "😀", "\u2028", "\x7f", "\x1b[31m",
    "'; drop table durably_runs; --", "%_\\", '"', "$1", ":name", "{now}", "null", "NaN", "x" * 255, "x" * 256, "é" * 255,
]  # fmt: skip
NUMBERS = [
    2**53,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    10**30,
    10**400,
    -0.0,
    1.0,
    1e308,
    5e-324,
    0.1,
    True,
]
KEYS = [
    {"": 1},
    {"\x00": 1},
    {"\ud800": 1},
    {"a": {"": [None]}},
    {"1": 1, "01": 2},
    {"b": 1, "a": 2},
]


@pytest.fixture(scope="module")
def url():
    url = postgres.run(postgres.create_database())
    yield url
    postgres.run(postgres.drop_database(url))


def instance_on(database):
    durably = Durably(database, polling_interval=0.05)

    @durably.job("echo")
    async def echo(step: Step, value: object) -> object:
        step.log.info("heard", value)
        return await step.run("again", lambda: value, returns=object)

    @durably.job("say")
    async def say(step: Step, text: str) -> str:
        step.progress(1, 2, text)
        step.log.warning(text)
        step.log.error("data", {text: text})
        return await step.run("say", lambda: text)

    @durably.job("name")
    async def name(step: Step, text: str) -> int:
        return await step.run(text, lambda: 1)

    @durably.job("fail")
    async def fail(step: Step, text: str) -> None:
        raise ValueError(text)

    durably._engine.persist_logs()
    return durably


async def attempt(call):
    """What came of it, in a way that can be compared: also of what was refused."""
    try:
        return await call
    except Exception as error:
        return type(error).__name__, str(error)


async def story(durably, job, value, **options):
    """All that there is to be told of a run."""
    handle = durably.get_job(job)
    run = await attempt(handle.trigger(value, **options))
    if isinstance(run, tuple):
        return run
    async with asyncio.timeout(60):
        while not (run := await durably.get_run(run.id)).is_final:
            await asyncio.sleep(0.005)
    steps = [
        (step.name, step.output, step.error and step.error.message)
        for step in await durably.get_steps(run.id)
    ]
    logs = [(log.level, log.message, log.data) for log in await durably.get_logs(run.id)]
    error = run.error and (run.error.type, run.error.message, run.error.step)
    told = (run.status, run.input, run.output, error, run.progress and run.progress.message)
    keys = (run.idempotency_key, run.concurrency_key, run.labels)
    return repr((*told, *keys, steps, logs))


async def on_both(tmp_path_factory, url, *questions):
    """The same asked of a file and of a server."""
    path = tmp_path_factory.mktemp("values") / "a.db"
    async with instance_on(path) as on_file, instance_on(url) as on_server:
        for ask in questions:
            told, also = await asyncio.gather(ask(on_file), ask(on_server))
            assert told == also


async def test_texts(tmp_path_factory, url):
    jobs = ("echo", "say", "name", "fail")
    await on_both(
        tmp_path_factory, url,
        *(lambda d, job=job, text=text: story(d, job, text) for text in TEXTS for job in jobs),
    )  # fmt: skip


async def test_numbers_and_keys_of_objects(tmp_path_factory, url):
    await on_both(
        tmp_path_factory, url, *(lambda d, v=v: story(d, "echo", v) for v in [*NUMBERS, *KEYS, NUMBERS, KEYS])
    )  # fmt: skip


async def test_labels_and_keys_of_runs(tmp_path_factory, url):
    def labelled(text):
        return lambda d: story(d, "echo", 1, labels={text: text}, concurrency_key=text)

    def known(text):
        async def twice(durably):
            first = await story(durably, "say", "x", idempotency_key=text)
            again = await attempt(durably.get_job("say").trigger("x", idempotency_key=text))
            found = await attempt(durably.get_runs(labels={text: text}))
            return (
                first,
                again[1] if isinstance(again, tuple) else again.output,
                (found if isinstance(found, tuple) else [run.labels for run in found]),
            )

        return twice

    await on_both(
        tmp_path_factory, url, *(labelled(text) for text in TEXTS), *(known(text) for text in TEXTS)
    )  # fmt: skip


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(ANYTHING, min_size=3, max_size=8))
async def test_anything(tmp_path_factory, url, values):
    await on_both(
        tmp_path_factory, url, *(lambda d, v=v: story(d, "echo", v) for v in values)
    )  # fmt: skip
