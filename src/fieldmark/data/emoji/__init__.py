"""Emoji as a retrieval collection, out of npm packages. Start with `collection.write_emoji`."""
