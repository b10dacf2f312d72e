"""The error that embedded_postgres raises."""


class EmbeddedPostgresError(Exception):
    """PostgreSQL could not be set up, started or stopped. The message gives the reason."""
