"""How good predictions are, and how many requests get what they were promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator

from llmgate.telemetry import exposition
from llmgate.telemetry.histogram import Histogram, Shape

RATIOS = (0.1, 0.25, 0.4, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 2.5, 4, 10)
PREDICTED_TTFT = Shape(
    "llmgate_predicted_ttft_error_ratio",
    "Time to first token that the policy predicted / that came, both from the decision: 1 is exact.",
    RATIOS,
)
PREDICTED_TPOT = Shape(
    "llmgate_predicted_tpot_error_ratio",
    "Time per output token that the policy predicted / that came: 1 is exact.",
    RATIOS,
)


class Objectives:
    """Labels as in `Metrics`: `model` is a resolved name, `endpoint` a member of the pool."""

    def __init__(self) -> None:
        self._predicted: dict[tuple[str, str, str], Histogram] = {}
        self._slo: Counter[tuple[str, str, bool]] = Counter()

    def ttft_predicted(self, model: str, endpoint: str, ratio: float) -> None:
        self._observe(PREDICTED_TTFT, model, endpoint, ratio)

    def tpot_predicted(self, model: str, endpoint: str, ratio: float) -> None:
        self._observe(PREDICTED_TPOT, model, endpoint, ratio)

    def slo_ended(self, model: str, target: str, met: bool) -> None:
        """A request with this target, `ttft` or `tpot`, has met or missed it."""
        self._slo[model, target, met] += 1
        self._slo[model, target, not met] += 0  # both are there from now on: rate() does not see a first value

    @property
    def endpoints(self) -> Collection[str]:
        return {endpoint for _, _, endpoint in self._predicted}

    def forget(self, endpoint: str, keeps: Callable[[str], bool]) -> None:
        """Drop the series of an endpoint, and those of models that nobody `keeps`."""
        self._predicted = {key: own for key, own in self._predicted.items() if key[2] != endpoint}
        self._slo = Counter({key: count for key, count in self._slo.items() if keeps(key[0])})

    def lines(self, openmetrics: bool) -> Iterator[str]:
        for shape in (PREDICTED_TTFT, PREDICTED_TPOT):
            yield exposition.header(shape.name, "histogram", shape.help, openmetrics=openmetrics)
            for (name, model, endpoint), histogram in tuple(self._predicted.items()):
                if name == shape.name:
                    yield histogram.text(exposition.labels(model=model, endpoint=endpoint))
        name = "llmgate_slo_requests_total"
        yield exposition.header(
            name, "counter", "Requests with a target for one of their times, by whether it was met.",
            openmetrics=openmetrics,
        )  # fmt: skip
        for (model, target, met), count in tuple(self._slo.items()):
            yield f"{name}{{{exposition.labels(model=model, target=target, met=str(met).lower())}}} {count}\n"

    def _observe(self, shape: Shape, model: str, endpoint: str, ratio: float) -> None:
        histogram = self._predicted.get((shape.name, model, endpoint))
        if histogram is None:
            histogram = self._predicted[shape.name, model, endpoint] = Histogram(shape)
        histogram.observe(ratio)
