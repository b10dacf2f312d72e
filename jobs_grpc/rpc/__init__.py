"""The call path around every method: limits, authentication, request reading, errors, logs."""
