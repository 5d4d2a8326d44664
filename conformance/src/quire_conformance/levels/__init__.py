"""The tests, one file or more for each level; `collection.py` turns them into pytest nodes, for one backend each."""
