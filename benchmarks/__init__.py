"""Measurements against peers: each a script that prints a table and writes JSON."""
