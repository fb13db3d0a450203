"""Convolutions, pools and normalisations: arrays to arrays."""
