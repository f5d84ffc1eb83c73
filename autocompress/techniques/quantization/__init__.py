"""Weights and activations of few bits or few values."""
