"""The error of this package."""


class EmbeddedPostgresError(Exception):
    """PostgreSQL could not be set up, started or stopped. The message gives the reason."""
