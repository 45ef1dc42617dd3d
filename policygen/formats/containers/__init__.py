"""Profiles of container runtimes and Kubernetes, in JSON or YAML -> policies, and back."""
