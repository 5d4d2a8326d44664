"""Parts of a backend whose device has memory and streams of its own and is driven by torch. Made to be extended."""
