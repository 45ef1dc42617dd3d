"""A run: a program that is started (`session`, `launch`), or processes that run already (`attach`); the one fork (`child`)."""
