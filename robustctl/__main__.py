"""``python -m robustctl``, and with it ``torchrun -m robustctl``."""

from robustctl.cli import main

if __name__ == "__main__":
    main()
