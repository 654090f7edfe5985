"""The data path: bytes between client and upstream, and the record of each exchange. The only asyncio in it."""
