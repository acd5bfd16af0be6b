"""What a process runs: `lair up` the three services on one API port, NGINX and its agent; others a part of these.

- `roles`: what a process is for; `assembly` makes its services, and `node` is its NGINX with the agent;
- `forwarding`: what it does not act for it passes on to who does, whose place `location` is; `http_server`: its port;
- `homes`: where servers run;
- `directory`: the data directory, its lock, and the small files in it; `app`: the HTTP application,
  and `openapi` what it says of itself;
- `system`: starts everything in order, and ends it; `addresses`: taking the ports, with errors that help;
- `running`: what of an installation runs, found without touching it;
- `leftovers`: stopping NGINX and instances that no control plane looks after; `demo`: the sample projects.

The services talk to each other over HTTP, in one process as on several machines.
"""
