"""The files and ports that a policy grants: rights (`rights`), trees of grants (`tree`), and what Landlock makes of them."""
