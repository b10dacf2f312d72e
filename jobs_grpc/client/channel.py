"""Channel options that clients of the service share."""

# Pings detect a dead server on a stream that only receives.
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)

# Keeps an unencrypted channel off the HTTP proxy that the environment names.
NO_PROXY = ("grpc.enable_http_proxy", 0)
