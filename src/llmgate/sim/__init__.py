"""The simulator: policies judged on a workload in virtual time, and one simulated engine over HTTP."""
