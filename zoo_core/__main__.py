"""`python -m zoo_core ARGS` is `zoo ARGS`."""

from zoo_core.cli import main

if __name__ == "__main__":
    main()
