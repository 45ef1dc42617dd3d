"""Events -> observations, folded (`fold`), and recordings of runs: merged (`runs`), read and written (`recording_file`)."""
