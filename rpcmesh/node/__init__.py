"""One worker machine: how it joins a mesh, and the agent that runs its worker and its tunnel."""
