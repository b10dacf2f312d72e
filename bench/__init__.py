"""Benchmarks: see bench/results/README.md.

Each starts what it needs (`environment`, `process`), loads it (`h2load`, `watches`, or a client of
its own), measures it (`figures`, `process`), and returns the tables of its page (`page`, `run`).
"""

import os

# The benchmarks fork processes. gRPC reads these variables when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
