"""The figures as Prometheus reads them (text format 0.0.4).

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from .metrics import Histogram, Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[Mapping[str, str], float]


def expose(
    metrics: Metrics,
    runs: Sequence[tuple[str, str, int]],
    ages: Mapping[str, float],
    streams: int,
) -> str:
    """All figures. ``runs``: (job, status, how many); ``ages``: of each job, how many seconds its
    longest due run waits."""
    ended = [({"job": job, "status": status}, n) for (job, status), n in metrics.ended.items()]
    parts = [
        _plain(
            "durably_runs", "gauge", "Runs in the database.",
            [({"job": job, "status": status}, count) for job, status, count in runs],
        ),
        _plain(
            "durably_queue_age_seconds", "gauge", "How long the longest due run has waited.",
            [({"job": job}, age) for job, age in ages.items()],
        ),
        _plain("durably_runs_ended_total", "counter", "Runs that ended in this process.", ended),
        _plain(
            "durably_lease_losses_total", "counter", "Runs lost to another worker while executing.",
            [({"job": job}, n) for job, n in metrics.lost.items()] or [({}, 0)],
        ),
        _plain("durably_sse_clients", "gauge", "Open streams of this process.", [({}, streams)]),
        _histograms(
            "durably_claim_latency_seconds", "From a run's trigger to its first start.",
            metrics.claims,
        ),
        _histograms("durably_step_duration_seconds", "How long steps took.", metrics.steps),
    ]  # fmt: skip
    return "".join(line for part in parts for line in part)


def _plain(name: str, kind: str, help: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP {name} {help}\n# TYPE {name} {kind}\n"
    for labels, value in samples:
        yield _line(name, labels, value)


def _histograms(name: str, help: str, by_job: Mapping[str, Histogram]) -> Iterator[str]:
    yield f"# HELP {name} {help}\n# TYPE {name} histogram\n"
    for job, histogram in by_job.items():
        total = 0
        for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
            total += count
            yield _line(f"{name}_bucket", {"job": job, "le": str(bound)}, total)
        yield _line(f"{name}_sum", {"job": job}, histogram.sum)
        yield _line(f"{name}_count", {"job": job}, total)


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {value!r}\n" if inside else f"{name} {value!r}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
