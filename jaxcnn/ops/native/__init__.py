"""oneDNN's convolutions on CPUs, compiled once on the user's machine."""
