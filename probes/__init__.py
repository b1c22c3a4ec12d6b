"""Probes: one pure measurement per file, (checkpoint, settings) -> Arrow tables."""
