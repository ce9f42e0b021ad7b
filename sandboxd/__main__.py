"""`python -m sandboxd`."""

from sandboxd.cli import main

if __name__ == "__main__":
    main()
