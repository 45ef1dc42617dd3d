"""A recording -> how likely the next run needs another rule (`confidence`), and which run found which (`discovery`)."""
