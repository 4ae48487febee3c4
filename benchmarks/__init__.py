"""What the hot paths cost, as ratios within one run: to a bare loop, or to OpenTelemetry's own SDK doing the same."""
