"""`python -m callfence`."""

from callfence.cli import main

main()
