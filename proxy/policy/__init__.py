"""What may be asked of the upstream: rules, their decision, and the live state that they need. Pure."""
