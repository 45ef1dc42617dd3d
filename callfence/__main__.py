"""Entry point of `python -m callfence`."""

from callfence import start

start.end_in_a_line()

from callfence.cli import main  # noqa: E402

main()
