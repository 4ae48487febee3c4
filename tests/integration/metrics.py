"""What a Prometheus page says, as plain Python values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from prometheus_client.samples import Sample


@dataclass(frozen=True)
class Metrics:
    """One scrape: its samples, and the type of each metric by the name that stands in its TYPE line."""

    samples: tuple[Sample, ...]
    types: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Metrics:
        families = list(text_string_to_metric_families(text))
        types = {family.name: family.type for family in families}
        return cls(tuple(sample for family in families for sample in family.samples), types)

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of all samples: a histogram's are its `_bucket`, `_sum` and `_count`."""
        return frozenset(sample.name for sample in self.samples)

    def select(self, name: str, **labels: str) -> list[Sample]:
        """The samples of this name whose labels have these values."""
        return [sample for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name whose labels have these values; 0 where there are none."""
        return sum(sample.value for sample in self.select(name, **labels))
