"""The process that turns records into spans, metrics and ledger rows; everything that may be slow."""
