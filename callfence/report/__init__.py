"""What is gathered of a policy and its recording, as one HTML page or as JSON."""
