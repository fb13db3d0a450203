"""Measures this project against others: each script prints a table and writes JSON."""
