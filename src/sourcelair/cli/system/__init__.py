"""What `lair up` runs: the three services on one API port, NGINX and its agent, in one process and one event loop.

- `directory`: the data directory, its lock, and the small files in it; `app`: the HTTP application,
  and `openapi` what it says of itself;
- `system`: starts everything in order, and ends it; `addresses`: taking the ports, with errors that help;
- `running`: what of an installation runs, found without touching it;
- `leftovers`: stopping NGINX and instances that no control plane looks after; `demo`: the sample projects.

The services still talk to each other over HTTP, as they would on several machines.
"""
