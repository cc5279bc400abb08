"""What every web server of the runtime shares: who may ask, how much, and a server in a thread. Needs the extra `serve`."""
