"""`python -m jobs_grpc.cli` is `jobs-grpc`."""

from jobs_grpc.cli import main

main()
