"""How coarsely pictures were coded: what streams tell of it, and what is measured."""
