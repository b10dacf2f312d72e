"""Simulated devices that carry out jobs through the public API."""
