"""A multi-tenant fleet jobs service: a gRPC API, with PostgreSQL as the store."""
