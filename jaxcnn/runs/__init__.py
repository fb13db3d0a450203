"""Runs: what is compiled, one run in its folder, the loop that trains, and trained networks."""
