"""What Prometheus reads of a service."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from vlm3d_gs.serve.jobs import Jobs

STATUSES = ("done", "failed", "stopped")


class _Collector:
    """Reads the numbers when they are asked for, so that nothing has to keep them up to date."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        ended = CounterMetricFamily(
            "vlm3d_gs_assets", "Assets that ended, by outcome.", labels=["status"]
        )
        for status in STATUSES:
            ended.add_metric([status], self._jobs.counts[status])
        yield ended
        yield CounterMetricFamily(
            "vlm3d_gs_asset_seconds", "Seconds that assets took, in sum.", self._jobs.seconds
        )
        yield GaugeMetricFamily("vlm3d_gs_waiting", "Prompts that wait.", self._jobs.waiting)
        yield GaugeMetricFamily("vlm3d_gs_running", "Prompts in progress.", len(self._jobs.running))


def metrics_of(jobs: Jobs) -> CollectorRegistry:
    """Return the registry of a service."""
    registry = CollectorRegistry()
    registry.register(_Collector(jobs))
    return registry


def as_text(registry: CollectorRegistry) -> bytes:
    """Return the metrics in Prometheus' text format."""
    return generate_latest(registry)
