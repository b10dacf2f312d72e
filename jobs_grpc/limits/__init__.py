"""Limits that tenants share."""
