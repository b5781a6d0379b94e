"""Studies: models x recipes x seeds x data x threats x protocols as steps, each a command of its own."""
