"""The task that makes a call, while it is stopped in it: where the call came from, and what its memory holds."""
