"""Implied sets: the entries that grant nothing beyond the rest of a policy, as reviewed tables (`tables`), and a policy with
these entries written out (`resolve`)."""
