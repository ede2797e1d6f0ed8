"""HTTP to the engines: the contract (base), the client on the data path (native), the reference (httpx_client)."""
