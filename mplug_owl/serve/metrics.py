"""What a server counts and measures, in the form Prometheus reads.

Requests are counted when they end. What the engines did and hold is read from them when somebody looks.
"""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mplug_owl.engine.engine import Engine
from mplug_owl.serve.account import Account
from mplug_owl.serve.catalogue import Catalogue

FIRST_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0)
BETWEEN_BUCKETS = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)
WHOLE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)

COUNTED = {
    "decode_forwards": "Steps that gave each running answer one token.",
    "prefill_positions": "Positions of prompts that were read.",
    "positions_reused": "Positions of prompts that were in the cache already.",
    "media_encoded": "Images and videos that went through the vision model.",
    "media_reused": "Images and videos whose features were known already.",
}


class Metrics:
    """The metrics of one application."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("owl_requests", "Requests for completions that ended.", "model", "outcome")
        self.prompt = self._counter("owl_prompt_tokens", "Tokens of prompts.", "model")
        self.cached = self._counter("owl_cached_tokens", "Of these, tokens that were in the cache already.", "model")
        self.generated = self._counter("owl_generated_tokens", "Tokens of answers.", "model")
        self.first = self._histogram(
            "owl_time_to_first_token_seconds", "From the request to its first token.", FIRST_BUCKETS
        )
        self.between = self._histogram("owl_inter_token_seconds", "Between two tokens of an answer.", BETWEEN_BUCKETS)
        self.whole = self._histogram("owl_request_seconds", "From the request to the end of its answer.", WHOLE_BUCKETS)
        self.registry.register(Engines(catalogue))
        ProcessCollector(registry=self.registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(name, about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, about, ["model"], buckets=buckets, registry=self.registry)

    def count(self, account: Account) -> None:
        """Take down a request that has ended."""
        model = account.model or ""
        self.requests.labels(model, account.outcome).inc()
        if not account.times:
            return
        self.prompt.labels(model).inc(account.prompt)
        self.cached.labels(model).inc(account.cached)
        self.generated.labels(model).inc(account.generated)
        if (first := account.to_first_token) is not None:
            self.first.labels(model).observe(first)
        between = self.between.labels(model)
        for seconds in account.between_tokens:
            between.observe(seconds)
        self.whole.labels(model).observe(account.seconds)

    def page(self) -> bytes:
        return bytes(generate_latest(self.registry))


class Engines(Collector):
    """What the engines hold and did, at the moment of looking."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def collect(self) -> Iterator[Metric]:
        engines = self._engines()
        gauges: tuple[tuple[str, str, Callable[[Engine], float]], ...] = (
            ("owl_running", "Conversations in the engine.", lambda engine: engine.running),
            ("owl_waiting", "Requests that wait for a slot.", lambda engine: engine.waiting),
            ("owl_slots", "Conversations that may run at once.", lambda engine: engine.options.slots),
            ("owl_feature_bytes", "Bytes of image and video features kept.", lambda engine: engine.features.bytes),
        )
        for name, about, value in gauges:
            gauge = GaugeMetricFamily(name, about, labels=["model"])
            for model, engine in engines:
                gauge.add_metric([model], value(engine))
            yield gauge
        for name, about in COUNTED.items():
            counter = CounterMetricFamily(f"owl_{name}", about, labels=["model"])
            for model, engine in engines:
                counter.add_metric([model], engine.counts[name])
            yield counter

    def _engines(self) -> list[tuple[str, Engine]]:
        """Each engine once, under the first of its names."""
        found: dict[int, tuple[str, Engine]] = {}
        for name in self.catalogue.names:
            engine = self.catalogue.owl(name).engine
            found.setdefault(id(engine), (name, engine))
        return list(found.values())
