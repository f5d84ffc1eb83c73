"""MLflow, and the pictures that it shows."""
