"""The subcommands of `callfence`, one module for each: `parser()` describes its command line, `main()` runs it."""
