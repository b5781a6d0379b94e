"""What evaluations found: result files and statistics."""
