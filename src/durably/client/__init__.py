"""A Durably server, from Python."""
