"""Models by name: registry entries, pulled repos and the user's own; how weights are found, fetched and converted."""
