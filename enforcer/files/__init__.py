"""Files and ports: Landlock rules, and why a call is denied by them."""
