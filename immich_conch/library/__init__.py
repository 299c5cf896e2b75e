"""What a user's tree means: no Conch, no HTTP, no reactor; a clock is handed in."""
