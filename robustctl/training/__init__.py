"""Training: one loop, its parts, and the methods that give it a loss."""
