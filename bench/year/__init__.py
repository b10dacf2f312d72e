"""A year of a fleet in an hour: `make bench-year`."""
