"""Lets `python -m jobs_grpc.cli` run the command `jobs-grpc`."""

from jobs_grpc.cli import main

main()
