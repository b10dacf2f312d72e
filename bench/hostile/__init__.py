"""Measures memory and the latency of another tenant while hostile clients attack.

Run by `make bench-hostile`; the figures are in bench/results/hostile.md.
"""
