// Which program loads programs here.
#pragma once

#include <string>

namespace rpcmesh::confine {

// The dynamic loader that this program names, and so every other of the same build. Empty in a static one.
std::string loader();

}  // namespace rpcmesh::confine
