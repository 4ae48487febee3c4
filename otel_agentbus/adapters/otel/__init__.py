"""Everything that already speaks OpenTelemetry, read as events of the bus: GenAI, OpenInference and OpenLLMetry spans.

`instrument` reads the global provider's spans; `SpanEvents` is the processor, for any other provider. The spans
themselves are others': they are exported by whoever makes them, and never again by us. Tested with opentelemetry-sdk
1.42 and 1.45.
"""

from __future__ import annotations

from .attaching import SpanReading, instrument
from .processor import SpanEvents

__all__ = ["SpanEvents", "SpanReading", "instrument"]
