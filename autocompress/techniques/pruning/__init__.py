"""Taking weights, channels, stripes and blocks away."""
