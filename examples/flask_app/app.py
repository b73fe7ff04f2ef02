"""Send a newsletter, a step for each address, and follow it on a page; README.md says how to run it."""

import atexit
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

from flask import Blueprint, Flask, abort, redirect, render_template, request, url_for
from pydantic import BaseModel, Field, ValidationError
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.wrappers import Response

from durably import Durably, SyncStep, errors, with_log_persistence

DATA = Path(os.environ.get("DATA", Path(__file__).parent / "data"))
PAUSE = float(os.environ.get("PAUSE", "0.2"))  # seconds a letter, for there to be something to see

durably = Durably(DATA / "jobs.db")
durably.use(with_log_persistence())
d = durably.sync()  # the same calls without await, from any thread; nothing is opened yet


# -- the job


class Letter(BaseModel):
    subject: Annotated[str, Field(min_length=1, max_length=200)]
    addresses: Annotated[list[str], Field(min_length=1, max_length=10_000)]


class Sent(BaseModel):
    letters: int


@durably.job("send-newsletter")
def send_newsletter(step: SyncStep, letter: Letter) -> Sent:
    """A plain function, in a thread of its own. What is committed is not sent again."""
    addresses = list(dict.fromkeys(letter.addresses))

    def deliver(number: int, address: str) -> None:
        send(step.idempotency_key(f"letter-{number}"), address, letter.subject)
        step.log.info("sent", {"to": address})
        step.progress(number, len(addresses))

    for number, address in enumerate(addresses, start=1):
        step.run(f"letter-{number}", deliver, number, address)
    return Sent(letters=len(addresses))


def send(key: str, address: str, subject: str) -> None:
    """Stands for a mail service. It knows the key of a letter that it was given before."""
    time.sleep(PAUSE)
    with closing(sqlite3.connect(DATA / "outbox.db", timeout=30)) as db, db:
        db.execute("create table if not exists letters (key text primary key, address, subject)")
        db.execute("insert or ignore into letters values (?, ?, ?)", (key, address, subject))


# -- the web

pages = Blueprint("pages", __name__)


@pages.before_app_request
def refuse_forms_of_other_sites() -> None:
    site = request.headers.get("Sec-Fetch-Site", "none")
    if request.method == "POST" and site not in ("same-origin", "none"):
        abort(403)


@pages.get("/")
def index() -> str:
    return render_template("index.html", runs=d.get_runs(job="send-newsletter", limit=10))


@pages.post("/letters")
def post_letter() -> Response:
    subject, addresses = request.form["subject"].strip(), request.form["addresses"].split()
    try:
        letter = Letter(subject=subject, addresses=addresses)
    except ValidationError:
        abort(400, "a letter needs a subject and addresses")
    run = d.trigger(send_newsletter, letter)
    return redirect(url_for("pages.follow", run_id=run.id), 303)


@pages.get("/letters/<run_id>")
def follow(run_id: str) -> str:
    run = d.handle(send_newsletter).get_run(run_id)
    if run is None:
        abort(404)
    return render_template("letter.html", run=run)


@pages.post("/letters/<run_id>/cancel")
def cancel(run_id: str) -> Response:
    try:
        d.cancel(run_id)
    except errors.RunNotFoundError:
        abort(404)
    except errors.RunConflictError:
        pass  # it is over; the page shows how
    return redirect(url_for("pages.follow", run_id=run_id), 303)


def create_app() -> Flask:
    """Made in each process that serves, after a fork: it opens the database and starts the worker."""
    app = Flask(__name__)
    app.register_blueprint(pages)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/api/durably": durably.wsgi()})  # type: ignore[method-assign]
    DATA.mkdir(parents=True, exist_ok=True)
    d.init()
    atexit.register(d.stop, 1)  # what still runs is handed back, and resumed at the next start
    return app
