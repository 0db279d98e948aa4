"""The whole of rpcmesh on one machine: a coordinator and its nodes as separate process trees, started and removed."""
