"""The gRPC services: each method validates the request, calls the store and converts the result."""
