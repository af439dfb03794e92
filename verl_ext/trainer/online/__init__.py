"""Online training on verl's Ray single controller."""
