"""What rpcmesh says about itself: structured logs."""
