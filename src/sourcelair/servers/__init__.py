"""The SourceLair API: bootstraps servers for external services. It knows nothing of how traffic reaches them."""
