"""The companion of a policy, `NAME.evidence`: kept up to date by what learns, used by what is for reviewers."""
