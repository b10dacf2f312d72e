"""Access to PostgreSQL: the store, connections, readiness checks, migrations and SQL files."""
