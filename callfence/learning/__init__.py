"""What `learn` composes: a command line (`command`) -> a traced run -> its policy and recording (`store`), and the summary."""
