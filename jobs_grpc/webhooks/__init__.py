"""Webhooks: signed deliveries of events to endpoints of the tenants."""
