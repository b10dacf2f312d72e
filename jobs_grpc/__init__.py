"""A multi-tenant fleet jobs service: gRPC over PostgreSQL."""
