"""Many workers and many calls under virtual time, to compare ways of balancing; see `simulate.py`."""
