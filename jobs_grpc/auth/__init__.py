"""Who may call: how a caller becomes a Principal, and what its roles allow."""
