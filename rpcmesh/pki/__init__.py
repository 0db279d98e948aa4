"""Identity and membership: the mesh's certificate authority, leaves, revocation and join tokens. No sockets here."""
