"""The same, mounted in FastAPI: ``uvicorn tests.http.streams.app_in_fastapi:api``."""

from fastapi import FastAPI

from tests.http.streams.app import api as mounted
from tests.http.streams.app import durably

api = FastAPI(lifespan=durably.lifespan)
api.mount("/api/durably", mounted)
