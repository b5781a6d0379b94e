"""Results to tables, pages and cards. Imports ``results`` alone."""
