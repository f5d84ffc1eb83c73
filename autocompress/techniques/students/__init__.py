"""Lightweight networks that take the model's place and learn from it."""
