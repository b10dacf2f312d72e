"""Development tools: an embedded PostgreSQL, a demo fleet and a device simulator."""
