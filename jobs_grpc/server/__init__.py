"""The running server: composition, gRPC servers, health, TLS, worker processes, signals."""
