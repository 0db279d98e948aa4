"""What is wrong with this machine's part of the mesh, and the command that mends it: facts, then checks of facts."""
