"""Tests of the operator console: a real Chromium, gateway, server and PostgreSQL."""
