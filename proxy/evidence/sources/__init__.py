"""Where exchanges are read from: the ledger's file, or ClickHouse. Both give the same columns, in the same order."""
