"""A look at a file before anything is done to it: what the camera did, what the filter would do."""
