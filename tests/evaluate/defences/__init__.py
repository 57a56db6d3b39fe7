"""Small versions of broken defences and of honest networks, each with its true robust accuracy."""
