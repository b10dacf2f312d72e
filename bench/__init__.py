"""Benchmarks: see docs/performance.md."""

import os

# As for the command: starting processes forks. Read when grpc is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
