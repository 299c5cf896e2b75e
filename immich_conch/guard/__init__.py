"""Who may connect, how often and from where; knows addresses and names, no users and no Immich."""
