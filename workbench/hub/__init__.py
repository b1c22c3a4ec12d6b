"""The Hub: pulling checkpoints into a standard cache, and a local Hub for suites trained here."""
