"""`python -m executor.cli`."""

from executor.cli.program import main

if __name__ == "__main__":
    main()
