"""What the user has, as rows by role."""
