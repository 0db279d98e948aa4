#include "server.h"

#include <openssl/crypto.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>
#include <vector>

#include "log.h"
#include "process.h"
#include "version.h"

namespace rpcmesh {

namespace {

constexpr int EXIT_BAD_SETTINGS = 1;
constexpr int EXIT_IN_USE       = 3;
constexpr int STATUS_TIMEOUT_S  = 1;

bool read_file(const std::string & path, std::string & text) {
    std::ifstream      file(path, std::ios::binary);
    std::ostringstream content;
    content << file.rdbuf();
    text = content.str();
    return file.good();
}

}  // namespace

int Server::run() {
    raise_descriptor_limit(options_.max_connections);
    spare_             = open_spare();
    const Pipe signals = make_pipe();
    handle_signals(signals.write.get());
    std::string error;
    int         status = EXIT_BAD_SETTINGS;
    if (!start(error, status)) {
        close_listeners();
        log_line("error", "cannot_start", [&](Json & line) { line.field("reason", error); });
        return status;
    }
    loop(signals.read.get());
    close_listeners();
    registry_.cut_all_and_wait();
    join(true);
    if (status_.valid()) {
        unlink(options_.status.c_str());
    }
    log_line("info", "stopped");
    return 0;
}

bool Server::start(std::string & error, int & status) {
    settings_ = load(error);
    if (!settings_) {
        return false;
    }
    if (!options_.listen.empty()) {
        network_ = listen_tcp(options_.listen);
        if (!network_.valid()) {
            status = errno == EADDRINUSE ? EXIT_IN_USE : EXIT_BAD_SETTINGS;
            error  = "cannot listen on " + options_.listen + ": " + std::strerror(errno);
            return false;
        }
    }
    if (!open_egress_listeners(settings_->routes, error)) {
        return false;
    }
    if (!options_.status.empty()) {
        status_ = listen_unix(options_.status);
        if (!status_.valid()) {
            error = "cannot make the status socket " + options_.status + ": " + std::strerror(errno);
            return false;
        }
    }
    log_line("info", "listening", [&](Json & line) {
        line.field("version", TUNNEL_VERSION);
        if (network_.valid()) {
            line.field("listen", bound_address(network_.get()));
        }
        line.field("routes", static_cast<uint64_t>(settings_->routes.size()));
    });
    return true;
}

std::shared_ptr<const Settings> Server::load(std::string & error) const {
    auto settings = std::make_shared<Settings>();
    if (options_.mode == Mode::loopback) {
        return settings;
    }
    std::string text;
    if (!read_file(options_.routes, text)) {
        error = options_.routes + " cannot be read";
        return nullptr;
    }
    settings->routes = parse_routes(options_.mode, text, error);
    if (!error.empty()) {
        return nullptr;
    }
    std::vector<std::string> alpns;
    for (const auto & [name, route] : settings->routes) {
        alpns.push_back(route.alpn);
    }
    const bool server  = options_.mode == Mode::ingress;
    settings->identity = load_identity(options_.identity, server, alpns, error);
    if (!settings->identity) {
        return nullptr;
    }
    // A list can only grow newer: an older one would let somebody back in.
    if (settings_ && settings->identity->crl_number < settings_->identity->crl_number) {
        error = "the revocation list's number went back from " + std::to_string(settings_->identity->crl_number) + " to " +
                std::to_string(settings->identity->crl_number);
        return nullptr;
    }
    return settings;
}

// Opens listeners for new routes first, so that a failure leaves everything as it was; then drops those without a route.
bool Server::open_egress_listeners(const Routes & routes, std::string & error) {
    if (options_.mode != Mode::egress) {
        return true;
    }
    std::map<std::string, Fd> opened;
    for (const auto & [name, route] : routes) {
        if (local_.count(name) != 0 && settings_->routes.count(name) != 0 && settings_->routes.at(name).unix_path == route.unix_path) {
            continue;
        }
        Fd listener = listen_unix(route.unix_path);
        if (!listener.valid()) {
            error = "cannot listen on " + route.unix_path + ": " + std::strerror(errno);
            for (const auto & [done, unused] : opened) {
                unlink(routes.at(done).unix_path.c_str());
            }
            return false;
        }
        opened[name] = std::move(listener);
    }
    for (auto it = local_.begin(); it != local_.end();) {
        if (routes.count(it->first) == 0 || opened.count(it->first) != 0) {
            unlink(settings_->routes.at(it->first).unix_path.c_str());
            it = local_.erase(it);
        } else {
            ++it;
        }
    }
    for (auto & [name, listener] : opened) {
        local_[name] = std::move(listener);
    }
    return true;
}

void Server::close_listeners() {
    network_.reset();
    for (const auto & [name, listener] : local_) {
        unlink(settings_->routes.at(name).unix_path.c_str());
    }
    local_.clear();
}

void Server::reload() {
    std::string error;
    const auto  fresh = load(error);
    if (!fresh || !open_egress_listeners(fresh->routes, error)) {
        last_reload_error_ = error;
        log_line("error", "reload_failed", [&](Json & line) { line.field("reason", error); });
        return;
    }
    settings_ = fresh;
    ++reloads_;
    last_reload_error_.clear();
    registry_.forget_failures_but(fresh->routes);
    if (fresh->identity) {
        log_line("info", "reloaded", [&](Json & line) {
            line.field("crl_number", static_cast<uint64_t>(fresh->identity->crl_number)).field("not_after", fresh->identity->not_after);
        });
        registry_.cut_if([fresh](const Session & session) {
            if (fresh->identity->revoked.count(session.serial) != 0) {
                return Reason::revoked;
            }
            const auto route = fresh->routes.find(session.route);
            return route == fresh->routes.end() || route->second.peer != session.peer ? Reason::route_removed : Reason::none;
        });
    }
}

void Server::loop(int signal_fd) {
    for (;;) {
        std::vector<pollfd>      watched = { { signal_fd, POLLIN, 0 }, { status_.get(), POLLIN, 0 }, { network_.get(), POLLIN, 0 } };
        std::vector<std::string> names;
        for (const auto & [name, listener] : local_) {
            watched.push_back({ listener.get(), POLLIN, 0 });
            names.push_back(name);
        }
        if (poll(watched.data(), static_cast<nfds_t>(watched.size()), -1) < 0) {
            continue;
        }
        join(false);
        if (watched[1].revents != 0) {
            answer_status();
        }
        if (watched[2].revents != 0) {
            accept_network();
        }
        for (size_t i = 3; i < watched.size(); ++i) {
            if (watched[i].revents != 0) {
                accept_local(settings_->routes.at(names[i - 3]), watched[i].fd);
            }
        }
        char signal = 0;
        while (read(signal_fd, &signal, 1) == 1) {
            if (signal != SIGHUP) {
                return;
            }
            reload();
        }
    }
}

// Those that are done, which takes no time; or all of them.
void Server::join(bool all) {
    for (auto it = running_.begin(); it != running_.end();) {
        if (all || *it->done) {
            it->thread.join();
            it = running_.erase(it);
        } else {
            ++it;
        }
    }
}

// On a thread of its own. A machine that is out of threads refuses one connection, not all of them.
void Server::serve(const std::shared_ptr<Session> & session, Incoming incoming, std::function<void(Incoming)> body) {
    const auto handed_over = std::make_shared<Incoming>(std::move(incoming));
    const auto done        = std::make_shared<std::atomic<bool>>(false);
    try {
        std::thread thread = start_thread([handed_over, done, body = std::move(body)] {
            body(std::move(*handed_over));
            *done = true;
        });
        running_.push_back({ std::move(thread), done });
    } catch (const std::system_error & error) {
        registry_.close(session);
        registry_.count_refused(name_of(Reason::too_many_connections));
        log_line("error", "session_refused", [&](Json & line) { line.field("reason", error.what()); });
    }
}

// Out of descriptors, accept() fails and the listener stays readable: the spare one is spent on the connection, which is
// closed at once, so that the loop does not spin and the stranger is not left hanging.
Fd Server::accept_or_shed(int listener, std::string & from) {
    Fd fd = accept_from(listener, from);
    if (!fd.valid() && (errno == EMFILE || errno == ENFILE)) {
        spare_.reset();
        accept_from(listener, from).reset();
        spare_ = open_spare();
        registry_.count_refused(name_of(Reason::too_many_connections));
        log_line("error", "out_of_descriptors");
        return {};
    }
    return fd;
}

void Server::accept_network() {
    std::string from;
    Fd          fd = accept_or_shed(network_.get(), from);
    if (!fd.valid()) {
        return;
    }
    const auto session = registry_.open(from, static_cast<size_t>(options_.max_connections));
    if (!session) {
        log_line("warning", "session_refused",
                 [&](Json & line) { line.field("remote", from).field("reason", name_of(Reason::too_many_connections)); });
        return;
    }
    serve(session, { std::move(fd), session, settings_ }, [this](Incoming incoming) {
        if (options_.mode == Mode::ingress) {
            serve_ingress(options_, registry_, std::move(incoming));
        } else {
            serve_loopback(options_, registry_, std::move(incoming));
        }
    });
}

void Server::accept_local(const Route & route, int listener) {
    std::string from;
    Fd          fd = accept_or_shed(listener, from);
    if (!fd.valid()) {
        return;
    }
    const auto session = registry_.open(from, static_cast<size_t>(options_.max_connections));
    if (!session) {
        return;
    }
    serve(session, { std::move(fd), session, settings_ },
          [this, route](Incoming incoming) { serve_egress(options_, registry_, std::move(incoming), route); });
}

void Server::answer_status() {
    std::string     from;
    const Fd        fd       = accept_or_shed(status_.get(), from);
    const TimePoint deadline = Clock::now() + std::chrono::seconds(STATUS_TIMEOUT_S);
    const Pipe      never    = make_pipe();
    std::string     text     = status_document();
    while (fd.valid() && !text.empty()) {
        const ssize_t sent = send_some(fd.get(), text.data(), text.size());
        if (sent > 0) {
            text.erase(0, static_cast<size_t>(sent));
        } else if (wait_for(fd.get(), POLLOUT, never.read.get(), deadline) != Waited::ready) {
            return;
        }
    }
}

std::string Server::status_document() {
    static const char * const modes[] = { "ingress", "egress", "loopback" };
    Json                      json;
    json.open_object()
        .field("mode", modes[static_cast<int>(options_.mode)])
        .field("version", TUNNEL_VERSION)
        .field("openssl", OpenSSL_version(OPENSSL_VERSION_STRING))
        .field("pid", static_cast<uint64_t>(getpid()))
        .field("listen", network_.valid() ? bound_address(network_.get()) : "")
        .field("uptime_s", std::chrono::duration<double>(Clock::now() - started_).count())
        .field("reloads", reloads_)
        .key("last_reload_error");
    last_reload_error_.empty() ? json.null() : json.value(last_reload_error_);
    if (settings_->identity) {
        const Identity & identity = *settings_->identity;
        json.field("crl_number", static_cast<uint64_t>(identity.crl_number));
        json.key("certificate").open_object();
        json.field("uri", identity.uri).field("serial", identity.serial).field("not_after", identity.not_after).close_object();
    }
    registry_.write_sessions(json);
    registry_.write_totals(json);
    return json.close_object().text();
}

}  // namespace rpcmesh
