"""What works on this machine, and a report of it."""
