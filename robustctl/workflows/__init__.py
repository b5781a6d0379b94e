"""The things that a user does, as functions: the command line and Python call the same ones."""
