"""A recording -> which runs needed which rules (`needs`), and how likely the next run needs another one (`confidence`)."""
