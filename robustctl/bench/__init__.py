"""Measurements that the documentation quotes: each prints what it ran on and can be run again by one command."""
