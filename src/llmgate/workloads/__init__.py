"""What clients ask for: recorded traces and synthetic loads in one form, for the simulator and the load generator."""
