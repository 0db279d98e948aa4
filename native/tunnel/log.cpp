#include "log.h"

#include <sys/time.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <string>

namespace rpcmesh {

std::string utc_now() {
    timeval now;
    gettimeofday(&now, nullptr);
    tm parts;
    gmtime_r(&now.tv_sec, &parts);
    char text[40];
    const size_t length = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
    std::snprintf(text + length, sizeof(text) - length, ".%03dZ", static_cast<int>(now.tv_usec / 1000));
    return text;
}

void begin_log_line(Json & line, const char * level, const char * event) {
    line.open_object().field("ts", utc_now()).field("level", level).field("event", event);
}

void write_log_line(Json & line) {
    line.close_object();
    // One write a line: threads do not mix theirs. A log that nobody reads any more stops nothing.
    const std::string text = line.text() + "\n";
    if (write(STDERR_FILENO, text.data(), text.size()) < 0) {
        return;
    }
}

}  // namespace rpcmesh
