"""What PyAV does not tell, asked of the very libraries that it has loaded."""
