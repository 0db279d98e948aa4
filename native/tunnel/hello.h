// The first frame of an RPC session, looked at before a worker is attached. No I/O.
#pragma once

#include "flow.h"
#include "guard/guard.h"
#include "reason.h"

namespace rpcmesh {

// Whether the guard has a whole HELLO among the bytes of `early`, and `none`; or why it never will.
Reason look_for_hello(guard::Guard & guard, Early & early);

}  // namespace rpcmesh
