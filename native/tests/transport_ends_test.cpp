// Where the transport listens and connects: a Unix socket for a path, which belongs to its owner alone, and TCP for any other host.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "raw_peer.h"

namespace {

void the_socket_s_file_is_for_its_owner_alone() {
    const Connection connection;
    struct stat      found = {};
    CHECK(stat(connection.folder.socket().c_str(), &found) == 0);
    CHECK_EQ(found.st_mode & 0777, mode_t{ 0600 });
}

void clients_are_served_one_after_another() {
    const Folder     folder;
    const socket_ptr server = socket_t::create_server(folder.socket().c_str(), 1);
    for (int client = 0; client < 3; ++client) {
        const RawPeer    peer(folder.socket());
        const socket_ptr served = server->accept();
        char             seen   = 0;
        peer.write("x", 1);
        CHECK(served && served->recv_data(&seen, 1) && seen == 'x');
    }
}

void a_stale_socket_is_replaced() {
    const Folder folder;
    socket_t::create_server(folder.socket().c_str(), 1).reset();
    CHECK(!socket_t::connect(folder.socket().c_str(), 1));
    const socket_ptr server = socket_t::create_server(folder.socket().c_str(), 1);
    CHECK(server != nullptr);
    CHECK(socket_t::connect(folder.socket().c_str(), 1) != nullptr);
}

void a_file_that_is_no_socket_is_left_alone() {
    const Folder folder;
    std::ofstream(folder.socket()) << "precious";
    CHECK(socket_t::create_server(folder.socket().c_str(), 1) == nullptr);
    std::string   content;
    std::ifstream(folder.socket()) >> content;
    CHECK_EQ(content, "precious");
}

void what_cannot_be_reached_is_null() {
    const Folder      folder;
    const std::string too_long = "/tmp/" + std::string(200, 'p');
    CHECK(socket_t::connect(folder.socket().c_str(), 1) == nullptr);
    CHECK(socket_t::connect(too_long.c_str(), 1) == nullptr);
    CHECK(socket_t::create_server(too_long.c_str(), 1) == nullptr);
    CHECK(socket_t::create_server("/nonexistent/w.sock", 1) == nullptr);
    CHECK(socket_t::connect("127.0.0.1", 1) == nullptr);
}

// A port that was free a moment ago; somebody else may take it first, so the server is tried on several.
int free_port() {
    const int   fd      = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    socklen_t   length  = sizeof(address);
    address.sin_family  = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bind(fd, reinterpret_cast<const sockaddr *>(&address), length);
    getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length);
    close(fd);
    return ntohs(address.sin_port);
}

void a_host_that_is_no_path_is_tcp() {
    socket_ptr server;
    int        port = 0;
    for (int attempt = 0; attempt < 20 && !server; ++attempt) {
        port   = free_port();
        server = socket_t::create_server("127.0.0.1", port);
    }
    CHECK(server != nullptr);
    const socket_ptr client = socket_t::connect("127.0.0.1", port);
    CHECK(client != nullptr);
    const socket_ptr served = server->accept();
    const Bytes      bytes  = random_bytes(8 * BUFFER_BYTES);
    bool             sent   = false;
    std::thread      sending([&] { sent = client->send_data(bytes.data(), bytes.size()) && client->flush(); });
    Bytes            seen(bytes.size());
    CHECK(served->recv_data(seen.data(), seen.size()));
    sending.join();
    CHECK(sent && seen == bytes);
}

}  // namespace

int main() {
    return check::run({
        TEST(the_socket_s_file_is_for_its_owner_alone),
        TEST(clients_are_served_one_after_another),
        TEST(a_stale_socket_is_replaced),
        TEST(a_file_that_is_no_socket_is_left_alone),
        TEST(what_cannot_be_reached_is_null),
        TEST(a_host_that_is_no_path_is_tcp),
    });
}
