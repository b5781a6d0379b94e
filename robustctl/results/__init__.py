"""The findings of evaluations: result files and statistics."""
