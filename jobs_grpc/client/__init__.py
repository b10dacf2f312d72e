"""Building blocks for callers of the service: retries and error texts."""
