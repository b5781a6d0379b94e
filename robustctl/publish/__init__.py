"""What leaves this machine: model cards, pushes, mirrors."""
