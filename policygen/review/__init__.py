"""A policy, or two versions of it -> findings (`lint`), changes to be judged (`changes`), what stands behind each rule
(`provenance`).
"""
