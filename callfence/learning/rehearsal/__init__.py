"""A recorded run -> a plan of runs in which a call fails or the circumstances differ (`plan`) -> what is new in them."""
