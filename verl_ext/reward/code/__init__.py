"""What a program is worth: it is right exactly if it passes every test."""
