"""Training: pure steps, one compiled program per chunk of them, and the host loop around it."""
