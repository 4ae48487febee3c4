"""Settings of `rq worker -c`, which reads names in capitals, and by which a worker is observed with no code changed."""

from __future__ import annotations

import otel_agentbus as agentbus

agentbus.connect(instrument="rq")
