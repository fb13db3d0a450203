"""oneDNN's convolutions and batch normalisation on CPUs, compiled once on the user's machine."""
