"""What grants nothing beyond the rest of a policy: reviewed rows (`tables`), and a policy with them written out (`resolve`)."""
