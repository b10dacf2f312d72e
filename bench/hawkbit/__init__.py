"""Compares the service with a running Eclipse hawkBit update server.

Run by `make bench-hawkbit`; bench/results/hawkbit.md says how to build and start hawkBit.
"""
