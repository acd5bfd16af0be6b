"""What the scenario `wake` is made of: servers, visits one by one and in crowds, and JupyterHub."""
