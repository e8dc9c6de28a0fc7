"""What holds across packages."""
