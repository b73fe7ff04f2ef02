"""The web process: the page, the API, and no worker. It knows of the workers what the database tells."""

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

import uvicorn
from fastapi import FastAPI, Header
from fastapi.responses import FileResponse
from jobs import render
from starlette.middleware.trustedhost import TrustedHostMiddleware

from durably import Durably

HERE = Path(__file__).parent
WORKERS = Path(os.environ["WORKERS"])  # where main.py writes which worker is which process

durably = Durably(os.environ["DATABASE_URL"], schema="films", jobs=[render], worker=False)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with durably:
        yield


app = FastAPI(title="Two workers, one PostgreSQL", lifespan=lifespan)
app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
app.mount("/api/durably", durably.asgi())

Name = Literal["A", "B"]


@app.get("/")
def page() -> FileResponse:
    return FileResponse(HERE / "index.html")


@app.get("/workers")
def workers() -> dict[Name, int | None]:
    """The process of each worker; None while it is dead."""
    return {"A": process_of("A"), "B": process_of("B")}


def process_of(name: Name) -> int | None:
    with suppress(FileNotFoundError, ValueError):
        return int((WORKERS / name).read_text())
    return None


@app.post("/workers/{name}/kill", status_code=204)
def kill(name: Name, x_demo: Annotated[str, Header()]) -> None:
    """``kill -9``. A header of our own is what no other site's form can send."""
    if (process := process_of(name)) is not None:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), access_log=False)
