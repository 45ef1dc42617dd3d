"""Observations and the policy that there is -> the policy that allows both (`generate`), and the filter for the next
run (`warm`).
"""
