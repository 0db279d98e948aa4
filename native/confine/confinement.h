// Everything that a worker gives up, in the order in which it must be, and what is said of it.
#pragma once

#include <string>
#include <vector>

#include "confine/limits.h"
#include "confine/options.h"

namespace rpcmesh::confine {

class Confinement {
public:
    explicit Confinement(const Options & options) : options_(options) {}

    // Gives up all that can be. Empty, or one line that says why it is not to go on.
    std::string put_in_force();
    // What is in force, as one line of JSON.
    std::string report() const;

private:
    // What could not be had: noted, unless everything is required.
    std::string without(const std::string & error);
    std::string restrict_files_and_rights();
    std::string restrict_calls();

    const Options &          options_;
    int                      landlock_    = 0;
    int                      call_filter_ = 0;
    std::vector<Limit>       limits_;
    std::vector<std::string> missing_;
};

// The line in place of a report.
std::string refusal(const std::string & reason);

}  // namespace rpcmesh::confine
