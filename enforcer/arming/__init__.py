"""Install a filter on a process at the right moment, and take its listener out of the process."""
