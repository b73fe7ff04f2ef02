"""``durably demo``: a real job, killed in the middle and resumed, checked against a plain count.

``index_stdlib`` is the job, to be taken as a model; ``drive`` kills and resumes it.
"""

from .drive import Options, run_demo

__all__ = ["Options", "run_demo"]
