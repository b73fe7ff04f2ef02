"""The full-stack example: its page, built, in a real Chromium, against its real server."""
