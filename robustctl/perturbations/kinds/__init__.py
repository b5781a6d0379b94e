"""Kinds of threats, one a file; the file's existence is its registration."""
