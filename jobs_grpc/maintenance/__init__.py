"""Background work across tenants: timeouts, finalization, retention and purge."""
