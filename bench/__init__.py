"""Benchmarks: see bench/results/README.md."""

import os

# The benchmarks fork processes. gRPC reads these variables when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
