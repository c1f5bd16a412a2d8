"""Search: an index of pictures on disk, what is asked of it, and the service in front of it."""
