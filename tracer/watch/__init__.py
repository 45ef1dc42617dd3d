"""What is looked at in a run besides counting its calls: who makes one and where from, whom it signals, waits; faults."""
