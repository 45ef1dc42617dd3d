"""A policy, or two versions of it -> findings (`lint`), changes to be judged (`changes`), the observations that each rule
comes from (`provenance`).
"""
