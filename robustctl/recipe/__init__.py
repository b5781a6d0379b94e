"""Recipes: their schema and their only reader."""
