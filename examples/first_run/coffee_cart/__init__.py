"""A coffee cart: what it sells, takes, brews and prints."""
