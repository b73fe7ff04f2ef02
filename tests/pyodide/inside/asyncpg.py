"""Stands where the driver would: none is built for Pyodide, and no server can be reached from it.

Only so that modules which name it can be imported; what needs a server is left out (``left_out``).
"""


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (Exception,), {})
