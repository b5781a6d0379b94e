"""Everything that leaves this machine: model cards, pushes, mirrors."""
