"""Files and ports: enforce them by Landlock rules, and explain the calls that these deny."""
