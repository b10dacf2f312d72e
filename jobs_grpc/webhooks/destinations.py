"""Says where webhooks may be sent."""

from jobs_grpc.config import EventsConfig


def webhook_destinations(events: EventsConfig) -> str:
    """Return the addresses, protocols and ports that the settings allow, for people."""
    networks = ["public addresses", *map(str, events.webhook_allowed_networks)]
    protocols = "https and http" if events.webhook_allow_http else "https"
    ports = ", ".join(map(str, events.webhook_allowed_ports))
    return f"{' and '.join(networks)}; {protocols}; ports {ports}"
