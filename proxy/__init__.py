"""Lengthwise: an OpenAI-compatible reverse proxy that observes latency."""

__version__ = "0.1.0"
