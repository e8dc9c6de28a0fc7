"""The NNCF-style face: a model under compression that its own training drives, and the controller that goes with it."""
