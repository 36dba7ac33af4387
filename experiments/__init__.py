"""One file is one experiment of the lectures: its config, its run and its claims. `bench` times the library."""
