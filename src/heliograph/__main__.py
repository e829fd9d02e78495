"""`python -m heliograph` is the command."""

from heliograph.cli import main

if __name__ == "__main__":
    main()
