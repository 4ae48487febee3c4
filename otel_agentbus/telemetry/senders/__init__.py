"""Senders: one attempt to deliver a batch of spans, and a verdict that says what to do with them next."""
