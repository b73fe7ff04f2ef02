"""Contacts and thumbnails, and a page that shows them being made; README.md says how to run it."""

import asyncio
import hashlib
import os
import sys
import threading
import webbrowser
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from jobs import DATA, Upload, count_contacts, create_tables, durably

PAGE = Path(__file__).with_name("dist")
MAX_BYTES = 20_000_000
FOREVER = {"cache-control": "public, max-age=31536000, immutable"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    create_tables()
    await durably.init()
    yield
    await durably.stop(grace=1)  # what still runs is handed back, and resumed at the next start


app = FastAPI(title="Durably, full stack", lifespan=lifespan)
app.mount("/api/durably", durably.asgi())


@app.post("/api/files")
async def keep_file(
    request: Request, content_type: Annotated[str, Header()] = ""
) -> dict[str, str]:
    """Keep a file under its digest. Sent twice, it is kept once."""
    if content_type != "application/octet-stream":  # which no other site's form can send
        raise HTTPException(415, "send the file as application/octet-stream")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BYTES:
            raise HTTPException(413, f"the file has more than {MAX_BYTES:,} bytes")
    file = Upload(name="", digest=hashlib.sha256(content).hexdigest())
    await asyncio.to_thread(write, file.path, content)
    return {"digest": file.digest}


def write(path: Path, content: bytearray) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    part.write_bytes(content)
    part.replace(path)


@app.get("/api/thumbnails/{digest}")
def thumbnail(digest: Annotated[str, InPath(pattern="^[0-9a-f]{64}$")]) -> FileResponse:
    path = Upload(name="", digest=digest).thumbnail
    if not path.exists():
        raise HTTPException(404, "there is no such thumbnail")
    return FileResponse(path, media_type="image/webp", headers=FOREVER)


@app.get("/api/contacts")
def contacts() -> dict[str, int]:
    return {"count": count_contacts()}


if PAGE.exists():  # `npm run build` makes it; `npm run dev` serves its own
    app.mount("/", StaticFiles(directory=PAGE, html=True))


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8000"))
    url = f"http://127.0.0.1:{port}"
    if "--open" in sys.argv:
        threading.Timer(1, webbrowser.open, [url]).start()
    print(f"{url} keeps what it makes in {DATA}", flush=True)
    uvicorn.run(app, port=port, log_level="warning")
