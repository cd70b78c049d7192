"""What every room stands on; nothing in it is public."""
