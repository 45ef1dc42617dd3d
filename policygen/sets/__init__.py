"""Turn expressions into exact sets of calls (`algebra`, `region`), sets into short expressions (`express`), and join entries
(`join`)."""
