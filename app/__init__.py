"""The dashboard: reads the metrics store, shows it, changes nothing."""
