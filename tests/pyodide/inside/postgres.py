"""Stands where tests/postgres.py would: the tests that use it are left out."""
