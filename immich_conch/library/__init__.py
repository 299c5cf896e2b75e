"""What a user's tree means: no Conch, no treq, no reactor; a clock is handed in."""
