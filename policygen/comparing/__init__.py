"""Two policies: what differs (compare.py), and what both allow (reducing.py)."""
