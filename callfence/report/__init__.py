"""A policy and its recording -> one HTML page, or JSON."""
