"""A real Chromium for tests, and Node: see README.md."""
