"""Parts to try Lengthwise with: a simulated provider and the demo."""
