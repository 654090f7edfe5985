"""What the records say: laws, lengths, what a cap would have done. numpy over columns; no aiohttp, no OpenTelemetry."""
