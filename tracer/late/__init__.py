"""A program that makes the same calls again and again -> the filter that lets those run, put into it while it runs."""
