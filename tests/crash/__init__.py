"""Attacks on the real engine from outside: real files, real signals, an oracle of its own."""
