"""A seized process and a filter -> the same process, confined, and the filter's listener."""
