"""What runs beside the application: configuration, alert rules and dashboards."""
