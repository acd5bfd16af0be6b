"""Ceryx, the dynamic proxy: public host -> target. It knows nothing of servers and projects."""
