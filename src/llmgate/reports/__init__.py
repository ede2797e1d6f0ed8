"""Reports: one HTML page with plots, for the simulator and the load generator."""
