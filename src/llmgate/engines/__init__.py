"""How an inference engine behaves, as arithmetic: no I/O, no clock. The simulator, the simulated HTTP engine, the
planner and the autoscaler share it."""
