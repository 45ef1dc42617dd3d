"""The start of a run: a program that is executed, or processes that run already; the one fork; filters, read back."""
