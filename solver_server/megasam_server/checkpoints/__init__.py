"""Weight files of the networks: what is known of each, and loading it."""
