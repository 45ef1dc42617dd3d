"""One module a subcommand of `callfence`, named after it, with `parser()` and `main()`: command lines -> output and
exit statuses.
"""
