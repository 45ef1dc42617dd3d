"""Files and ports of policies: learned (`generalise`), compared (`algebra`), needed by calls (`calls`), in Landlock's terms."""
