"""Motion between pictures, and pictures moved along it."""
