"""The dashboards' source: `make dashboards` writes `dashboards/*.json` from it."""
