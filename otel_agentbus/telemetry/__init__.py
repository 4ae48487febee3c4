"""OUT: events become spans and metrics, and leave by OTLP. Knows events; never the router nor the blocks."""
