// Resource limits, which also hold for whatever this process becomes.
#pragma once

#include <string>
#include <vector>

#include "confine/options.h"

namespace rpcmesh::confine {

// One that is in force now, in the unit that its name says.
struct Limit {
    const char * name;
    long         value;
};

// No core files, whatever the options say: one would hold the model and its users' words. Appends what is in force
// to `limits`; an empty string, or one line about the first that was refused.
std::string set_limits(const Options & options, std::vector<Limit> & limits);

}  // namespace rpcmesh::confine
