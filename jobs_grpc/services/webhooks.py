"""Implements the calls of EventService that manage webhooks."""


class Webhooks:
    """The methods of EventService about webhooks."""
