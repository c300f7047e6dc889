"""What an inspection reads of a file: every packet, and a sample of its pictures."""
