"""`python -m mi_toolkit`: the same as the command `mi-toolkit`."""

from mi_toolkit.cli.main import main

if __name__ == "__main__":
    main()
