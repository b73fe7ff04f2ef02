"""Durably in a browser's worker: Pyodide runs the jobs, SQLite is in the origin's private file system.

Nothing here imports JavaScript: the worker of ``durably-react/browser`` calls ``start`` and passes
the object that sends answers to the page. So it runs, and is tested, on any Python.
"""

from .jobs import jobs_of
from .port import Page, Port
from .server import Server, check_commits, start

__all__ = ["Page", "Port", "Server", "check_commits", "jobs_of", "start"]
