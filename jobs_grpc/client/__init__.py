"""Building blocks for clients of the service: channel options, retries and error texts."""
