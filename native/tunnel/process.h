// What the process asks of the system for itself: signals as bytes in a pipe, threads that hear none, descriptors.
#pragma once

#include <csignal>
#include <functional>
#include <thread>

#include "fd.h"

namespace rpcmesh {

// From now on SIGTERM, SIGINT and SIGHUP each write their number to `pipe`, and a peer that has gone raises no SIGPIPE.
void handle_signals(int pipe);

// Starts with signals blocked, so that the main thread alone hears them. Throws std::system_error when the machine has
// no thread left.
std::thread start_thread(std::function<void()> body);

// A descriptor that can be given up when there is no other.
Fd open_spare();

// Each session holds four descriptors, and macOS starts a process with 256.
void raise_descriptor_limit(int max_connections);

}  // namespace rpcmesh
