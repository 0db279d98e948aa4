// One JSON object a line on standard error. Secrets never come here.
#pragma once

#include <string>
#include <string_view>

#include "json.h"

namespace rpcmesh {

// log_line("info", "session_opened", [](Json & line) { line.field("route", route); })
template <typename Fields> void log_line(const char * level, const char * event, Fields && add);
void                            log_line(const char * level, const char * event);

// Now, as "2026-01-31T12:00:00.123Z".
std::string utc_now();

void begin_log_line(Json & line, const char * level, const char * event);
void write_log_line(Json & line);

template <typename Fields> void log_line(const char * level, const char * event, Fields && add) {
    Json line;
    begin_log_line(line, level, event);
    add(line);
    write_log_line(line);
}

inline void log_line(const char * level, const char * event) {
    log_line(level, event, [](Json &) {});
}

}  // namespace rpcmesh
