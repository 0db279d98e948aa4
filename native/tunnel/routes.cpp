#include "routes.h"

#include <algorithm>
#include <sstream>

#include "fd.h"

namespace rpcmesh {

namespace {

constexpr size_t ALPN_MAX = 255;
// sockaddr_un.sun_path has 104 bytes on macOS, its NUL among them; a path that is too long would be found out at the first connection.
constexpr size_t SOCKET_PATH_MAX = 103;

std::vector<std::string> words_of(const std::string & line) {
    std::istringstream       stream(line);
    std::vector<std::string> words;
    for (std::string word; stream >> word;) {
        words.push_back(word);
    }
    return words;
}

std::string stem_of(const std::string & path) {
    std::string       name   = path.substr(path.rfind('/') + 1);
    const std::string suffix = ".sock";
    if (name.size() > suffix.size() && name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0) {
        name.resize(name.size() - suffix.size());
    }
    return name;
}

// A NUL would end the socket's path early, and no other control byte belongs there either.
bool has_control_byte(const std::string & word) {
    return std::any_of(word.begin(), word.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

const char * problem_of(const Route & route, Mode mode) {
    std::string host;
    std::string port;
    if (route.alpn.empty() || route.alpn.size() > ALPN_MAX) {
        return "the ALPN must have 1 to 255 bytes";
    }
    if (route.unix_path.front() != '/') {
        return "the socket's path must be absolute";
    }
    if (route.unix_path.size() > SOCKET_PATH_MAX) {
        return "the socket's path must have at most 103 bytes";
    }
    if (route.peer.rfind("spiffe://", 0) != 0) {
        return "the peer must be a spiffe:// URI";
    }
    if (mode == Mode::egress && !split_address(route.address, host, port)) {
        return "the address must be HOST:PORT";
    }
    return nullptr;
}

}  // namespace

Routes parse_routes(Mode mode, const std::string & text, std::string & error) {
    const size_t       fields = mode == Mode::ingress ? 3 : 4;
    Routes             routes;
    std::istringstream lines(text);
    size_t             number = 0;
    for (std::string line; std::getline(lines, line);) {
        ++number;
        const std::vector<std::string> words = words_of(line.substr(0, line.find('#')));
        if (words.empty()) {
            continue;
        }
        const char * problem = nullptr;
        Route        route;
        if (std::any_of(words.begin(), words.end(), has_control_byte)) {
            problem = "a control byte has no place in a route";
        } else if (words.size() != fields) {
            problem = mode == Mode::ingress ? "want ALPN PATH PEER" : "want PATH HOST:PORT ALPN PEER";
        } else if (mode == Mode::ingress) {
            route = { words[0], words[0], words[1], words[2], "" };
        } else {
            route = { stem_of(words[0]), words[2], words[0], words[3], words[1] };
        }
        if (problem == nullptr) {
            problem = problem_of(route, mode);
        }
        if (problem == nullptr && !routes.emplace(route.name, route).second) {
            problem = "the route is there twice";
        }
        if (problem != nullptr) {
            error = "routes line " + std::to_string(number) + ": " + problem;
            return {};
        }
    }
    return routes;
}

}  // namespace rpcmesh
