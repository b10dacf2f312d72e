"""Logs and traces of the server, and what counts its calls."""
