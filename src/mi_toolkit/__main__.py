"""`python -m mi_toolkit`: the same as the command `mi-toolkit`."""

from mi_toolkit.cli.app import main

if __name__ == "__main__":
    main()
