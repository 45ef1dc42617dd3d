"""Several policies -> one: the union (`unite`), or git's three-way merge (`threeway`)."""
