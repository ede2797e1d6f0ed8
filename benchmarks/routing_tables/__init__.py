"""All policies, peers' rules and the oracle on three workloads: see __main__.py."""
