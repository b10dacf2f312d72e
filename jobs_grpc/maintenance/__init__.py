"""Background work across tenants: timeouts, stages, finalization, retention and purge."""
