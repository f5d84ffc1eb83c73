"""The search: sampling, asking, telling and ending with an answer."""
