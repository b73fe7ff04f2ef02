"""Pages of other origins: what they may change and read."""

from __future__ import annotations

import pytest

from durably.errors import ConfigurationError
from durably.http.routes import ROUTES

from .asking import ABSENT, JSON, OF_ONE_RUN, Asker

# -- what they may change (CSRF)

OWN = "http://localhost:8000"
LISTED = "https://app.example.com"
X = {"x-durably": "1"}
CSRF = [
    # what browsers say of a page of the same origin, with and without a body
    ({**JSON, "sec-fetch-site": "same-origin", "origin": OWN}, 200),
    ({"sec-fetch-site": "same-origin", "origin": OWN}, 200),
    ({"origin": OWN}, 200),
    # no browser
    (JSON, 200),
    (X, 200),
    ({}, 415),
    ({"sec-fetch-site": "none"}, 415),
    ({**JSON, "sec-fetch-site": "none"}, 200),
    # forms
    ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ({"content-type": "multipart/form-data; boundary=x"}, 415),
    ({"content-type": "text/plain"}, 415),
    ({"content-type": "text/plain; application/json"}, 415),
    ({"content-type": "application/json, text/plain"}, 415),
    ({**X, "content-type": "text/plain"}, 415),
    ({"content-type": "text/plain", "sec-fetch-site": "same-origin", "origin": OWN}, 415),
    # pages of other sites, of another port, of a sandbox, of a neighbour
    ({**JSON, "sec-fetch-site": "cross-site", "origin": "https://evil.example"}, 403),
    ({**X, "sec-fetch-site": "cross-site", "origin": "https://evil.example"}, 403),
    ({**JSON, "sec-fetch-site": "cross-site"}, 403),
    ({**JSON, "sec-fetch-site": "same-site", "origin": "http://localhost:3000"}, 403),
    ({**JSON, "origin": "https://evil.example"}, 403),
    ({**JSON, "origin": "http://localhost:3000"}, 403),
    ({**JSON, "origin": "null"}, 403),
    ({**JSON, "origin": ""}, 403),
    ({**JSON, "origin": f"{OWN}, https://evil.example"}, 403),
    ({**JSON, "origin": "http://localhost:8000.evil.example"}, 403),
    ({**JSON, "origin": OWN, "sec-fetch-site": "cross-site"}, 403),
    ({**JSON, "sec-fetch-site": "same-origin, cross-site"}, 403),
    # listed origins
    ({**JSON, "sec-fetch-site": "cross-site", "origin": LISTED}, 200),
    ({"sec-fetch-site": "cross-site", "origin": LISTED}, 200),
    ({**JSON, "origin": LISTED.upper()}, 403),
    ({**JSON, "origin": LISTED + ":443"}, 403),
    ({**JSON, "origin": "https://app.example.com.evil.example"}, 403),
    ({**JSON, "origin": "http://app.example.com"}, 403),
]


@pytest.mark.parametrize(("headers", "status"), CSRF, ids=str)
async def test_no_page_of_another_site_changes_anything(durably, jobs, headers, status):
    asker = Asker(durably.handler(origins=[LISTED]))
    triggered = await asker.ask("POST", "/trigger", (), b'{"jobName":"tick"}', headers)
    assert triggered.status == status
    assert len(await durably.get_runs()) == (status == 200)
    for route in (route for route in OF_ONE_RUN if route.is_unsafe):
        answer = await asker.ask(route.method, route.path, [("runId", ABSENT)], b"", headers)
        assert answer.status == (404 if status == 200 else status), route
    if status == 403:
        unlisted = Asker(durably.handler())
        assert (await unlisted.ask("POST", "/trigger", (), b"{}", headers)).status == 403


async def test_nothing_changes_by_get(durably, jobs, tenants):
    before = [await durably._engine.runs.get_row(run_id) for run_id in tenants.runs.values()]
    for route in ROUTES:
        for run_id in tenants.runs.values():
            query = [("runId", run_id)] if any(p.required for p in route.parameters) else []
            for method in ("GET", "HEAD"):
                await tenants.a.peek(method, route.path, query)
    assert [
        await durably._engine.runs.get_row(run_id) for run_id in tenants.runs.values()
    ] == before


# -- what they may read (CORS)

CORS = "access-control-allow-origin"


async def test_other_origins_pages_may_not_read_by_default(durably, jobs):
    asker = Asker(durably.handler())
    for origin in (LISTED, OWN, "null", "*"):
        answer = await asker.ask("GET", "/runs", headers={"origin": origin})
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "origin", ["*", "https://*.example.com", "app.example.com", LISTED + "/", "null"]
)
def test_origins_are_listed_exactly(durably, origin):
    with pytest.raises(ConfigurationError, match="origin"):
        durably.handler(origins=[origin])


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (LISTED, True), ("http://localhost:5173", True), (None, False), ("null", False),
        ("https://evil.example", False), (LISTED + ".evil.example", False), ("*", False),
        (LISTED + "/", False), ("https://APP.example.com", False), (f"{LISTED}, {LISTED}", False),
    ],
)  # fmt: skip
async def test_listed_origins_pages_may_read(durably, jobs, origin, allowed):
    asker = Asker(durably.handler(origins=[LISTED, "http://localhost:5173"]))
    headers = {} if origin is None else {"origin": origin}
    for path in ("/runs", "/run", "/nothing", "/metrics", "/runs/subscribe"):
        answer = await asker.peek("GET", path, headers=headers)
        assert answer.headers["vary"] == "Origin"
        assert answer.headers.get(CORS) == (origin if allowed else None)
        assert ("access-control-allow-credentials" in answer.headers) == allowed
    ask = {**headers, "access-control-request-method": "POST"}
    preflight = await asker.ask("OPTIONS", "/trigger", headers=ask)
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.headers.get(CORS) == (origin if allowed else None)
    if allowed:
        assert preflight.headers["access-control-allow-methods"] == "POST"
        assert "x-durably" in preflight.headers["access-control-allow-headers"]
        assert "Durably-Next-Cursor" in answer.headers["access-control-expose-headers"]
    missing = await asker.ask("OPTIONS", "/nothing", headers=ask)
    assert missing.refusal == (404, "not_found")


async def test_a_preflight_asks_for_no_credentials(tenants):
    nobody = Asker(tenants.handler)
    ask = {"origin": LISTED, "access-control-request-method": "GET"}
    assert (await nobody.ask("OPTIONS", "/runs", headers=ask)).status == 204


EMBEDDED = [
    ({"sec-fetch-mode": "no-cors", "sec-fetch-site": "same-site"}, 403),
    ({"sec-fetch-mode": "no-cors", "sec-fetch-site": "cross-site"}, 403),
    ({"sec-fetch-mode": "no-cors", "sec-fetch-site": "same-origin"}, 200),
    ({"sec-fetch-mode": "cors", "sec-fetch-site": "same-site", "origin": LISTED}, 200),
    ({"sec-fetch-mode": "navigate", "sec-fetch-site": "cross-site"}, 200),
    ({"sec-fetch-mode": "no-cors"}, 200),
]


@pytest.mark.parametrize(("headers", "status"), EMBEDDED, ids=str)
@pytest.mark.parametrize("path", ["/runs", "/runs/subscribe"])
async def test_no_page_of_another_site_embeds_an_answer(durably, jobs, path, headers, status):
    asker = Asker(durably.handler(origins=[LISTED]))
    assert (await asker.peek("GET", path, (), headers)).status == status
    assert asker.handler.streams == 0
