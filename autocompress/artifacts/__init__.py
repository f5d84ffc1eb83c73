"""Artifacts: exporting, storing, loading and verifying compressed models."""
