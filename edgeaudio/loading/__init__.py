"""What people already have: which kind of model MODEL is, and how each is read."""
