"""Training methods: one a file, a ``Config`` (its block in a recipe) and its loss."""
