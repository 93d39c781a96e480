"""The mesh on one machine: the process manager, the database, Triton and the edge, as `make run` starts them."""
