"""What to look at once there is a posterior."""
