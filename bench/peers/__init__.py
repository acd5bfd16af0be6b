"""What we are measured against: each peer knows how it is started with a set of routes."""
