// Becoming an ordinary user, and giving up what is left of root's rights.
#pragma once

#include <string>

#include "confine/options.h"

namespace rpcmesh::confine {

// Groups, group and user, for good. Empty, or one line that says why not.
std::string become(const User & user);

// Every capability, and the right to ever gain one by running a program. Empty, or one line that says why not.
std::string give_up_rights();

}  // namespace rpcmesh::confine
