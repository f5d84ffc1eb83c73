"""Measurements, each taken on the exported file."""
