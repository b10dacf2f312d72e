"""Reads the options of the contract."""
