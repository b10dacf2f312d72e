"""Compares the service with a running Eclipse hawkBit update server.

Run by `make bench-hawkbit`; docs/performance.md says how to build and start hawkBit.
"""
