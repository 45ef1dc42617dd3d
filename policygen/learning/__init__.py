"""Learn from observations and the existing policy, if any, a policy that allows both (`generate`); and make the filter for
recording the next run (`warm`).
"""
