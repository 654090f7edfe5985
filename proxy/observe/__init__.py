"""What came: the sans-io reader of a response."""
