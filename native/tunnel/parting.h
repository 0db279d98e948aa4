// What follows the end of an RPC session: its worker must have closed its side before anybody else gets to it.
#pragma once

#include <string>

#include "guard/guard.h"
#include "options.h"
#include "pump.h"
#include "registry.h"

namespace rpcmesh {

// Returns once the worker of `near`, which listens at `path`, has closed its side or is no longer waited for. Logs
// worker_lost for a worker that left its client, and worker_stuck for one that does not leave: whoever reads that ends it.
void part_with_worker(const Options & options, const Registry & registry, const Session & session, const guard::Guard & guard,
                      const std::string & path, const End & near, const Ended & ended);

}  // namespace rpcmesh
