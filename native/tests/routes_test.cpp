// A routes file is taken whole, or refused whole with the number of the first line that is wrong.
#include "routes.h"

#include <random>

#include "check.h"

namespace {

using rpcmesh::Mode;
using rpcmesh::parse_routes;
using rpcmesh::Route;
using rpcmesh::Routes;

const std::string peer = "spiffe://m1/coordinator";

void expect(Mode mode, const std::string & text, const std::string & expected) {
    std::string  error;
    const Routes routes = parse_routes(mode, text, error);
    check::row          = "the text " + text.substr(0, 200);
    CHECK_EQ(error, expected);
    CHECK(expected.empty() || routes.empty());
}

Routes good(Mode mode, const std::string & text) {
    std::string  error;
    const Routes routes = parse_routes(mode, text, error);
    CHECK_EQ(error, "");
    return routes;
}

void an_ingress_line_is_alpn_path_peer() {
    const Routes routes = good(Mode::ingress, "rpcmesh/rpc/gpu0 /run/gpu0.sock spiffe://m1/coordinator\n");
    const Route  wanted = { "rpcmesh/rpc/gpu0", "rpcmesh/rpc/gpu0", "/run/gpu0.sock", peer, "" };
    CHECK_EQ(routes.size(), size_t{ 1 });
    CHECK(routes.count("rpcmesh/rpc/gpu0") == 1 && routes.at("rpcmesh/rpc/gpu0") == wanted);
}

void an_egress_line_is_path_address_alpn_peer_and_named_by_its_socket() {
    const Routes routes = good(Mode::egress, "/run/a.gpu0.sock 10.0.0.2:7443 rpcmesh/rpc/gpu0 spiffe://m1/node/a\n");
    const Route  wanted = { "a.gpu0", "rpcmesh/rpc/gpu0", "/run/a.gpu0.sock", "spiffe://m1/node/a", "10.0.0.2:7443" };
    CHECK_EQ(routes.size(), size_t{ 1 });
    CHECK(routes.count("a.gpu0") == 1 && routes.at("a.gpu0") == wanted);
}

void a_socket_without_the_suffix_is_named_whole() {
    CHECK_EQ(good(Mode::egress, "/run/a 10.0.0.2:1 alpn spiffe://m1/node/a").count("a"), size_t{ 1 });
    CHECK_EQ(good(Mode::egress, "/run/.sock 10.0.0.2:1 alpn spiffe://m1/node/a").count(".sock"), size_t{ 1 });
}

void only_alpns_below_the_prefix_are_rpc() {
    const Routes routes = good(Mode::ingress, "rpcmesh/rpc/w /w spiffe://m1/a\nrpcmesh/agent /a spiffe://m1/a\nxrpcmesh/rpc/ /x spiffe://m1/a");
    CHECK(routes.at("rpcmesh/rpc/w").is_rpc());
    CHECK(!routes.at("rpcmesh/agent").is_rpc());
    CHECK(!routes.at("xrpcmesh/rpc/").is_rpc());
}

void comments_empty_lines_and_spaces_are_skipped() {
    const char * texts[] = { "", "\n\n", "# rpcmesh/agent /a spiffe://m1/a", "   # words\n\t\n" };
    for (const char * text : texts) {
        check::row = text;
        CHECK(good(Mode::ingress, text).empty());
    }
    CHECK_EQ(good(Mode::ingress, "# first\n\n \ta   /s\tspiffe://m1/a  # why\r\n").size(), size_t{ 1 });
}

void the_last_line_needs_no_end() {
    CHECK_EQ(good(Mode::ingress, "a /a spiffe://m1/a\nb /b spiffe://m1/a").size(), size_t{ 2 });
}

void each_error_names_its_line() {
    const std::string line = "a /a spiffe://m1/a\n";
    expect(Mode::ingress, "a /a", "routes line 1: want ALPN PATH PEER");
    expect(Mode::ingress, line + "b /b spiffe://m1/a more\n", "routes line 2: want ALPN PATH PEER");
    expect(Mode::ingress, "# comment\n\n" + line + "b\n" + "c\n", "routes line 4: want ALPN PATH PEER");
    expect(Mode::egress, line, "routes line 1: want PATH HOST:PORT ALPN PEER");
    expect(Mode::ingress, line + "b b.sock spiffe://m1/a", "routes line 2: the socket's path must be absolute");
    expect(Mode::ingress, line + "b ./b.sock spiffe://m1/a", "routes line 2: the socket's path must be absolute");
    expect(Mode::egress, "run/b.sock h:1 b spiffe://m1/a", "routes line 1: the socket's path must be absolute");
    expect(Mode::ingress, line + "b /b https://m1/a", "routes line 2: the peer must be a spiffe:// URI");
    expect(Mode::ingress, line + "b /b xspiffe://m1/a", "routes line 2: the peer must be a spiffe:// URI");
    expect(Mode::ingress, line + "b /b SPIFFE://m1/a", "routes line 2: the peer must be a spiffe:// URI");
}

void an_address_must_have_host_and_port() {
    for (const char * wrong : { "host", "host:", ":1", "host:x", "host:65536", "host:-1", "fe80::1:1", "[]:1", "host:1:2" }) {
        expect(Mode::egress, std::string("/b ") + wrong + " b spiffe://m1/a", "routes line 1: the address must be HOST:PORT");
    }
    for (const char * right : { "host:1", "10.0.0.1:65535", "[fe80::1]:7443", "node-a.local:7443" }) {
        expect(Mode::egress, std::string("/b ") + right + " b spiffe://m1/a", "");
    }
}

void a_name_stands_once() {
    expect(Mode::ingress, "a /a spiffe://m1/a\nb /b spiffe://m1/a\na /c spiffe://m1/a", "routes line 3: the route is there twice");
    expect(Mode::egress, "/x/a.sock h:1 a spiffe://m1/a\n/y/a.sock h:1 b spiffe://m1/a", "routes line 2: the route is there twice");
}

void an_alpn_has_at_most_255_bytes() {
    const std::string rest = " /a spiffe://m1/a";
    expect(Mode::ingress, std::string(255, 'x') + rest, "");
    expect(Mode::ingress, std::string(256, 'x') + rest, "routes line 1: the ALPN must have 1 to 255 bytes");
}

// 103 bytes is what macOS has room for; a file that is right there is right on Linux.
void a_path_fits_into_a_socket_s_address() {
    const std::string fits = "/" + std::string(102, 'p');
    expect(Mode::ingress, "a " + fits + " spiffe://m1/a", "");
    expect(Mode::ingress, "a " + fits + "p spiffe://m1/a", "routes line 1: the socket's path must have at most 103 bytes");
    expect(Mode::egress, "/" + std::string(5000, 'p') + " h:1 a spiffe://m1/a", "routes line 1: the socket's path must have at most 103 bytes");
}

void control_bytes_are_refused() {
    const std::string problem = "routes line 2: a control byte has no place in a route";
    for (const int byte : { 0x00, 0x01, 0x08, 0x1b, 0x1f, 0x7f }) {
        const std::string hostile(1, static_cast<char>(byte));
        expect(Mode::ingress, "\na" + hostile + " /a spiffe://m1/a", problem);
        expect(Mode::ingress, "\na /a" + hostile + "b spiffe://m1/a", problem);
        expect(Mode::ingress, "\na /a spiffe://m1/a" + hostile, problem);
        expect(Mode::egress, "\n/a h" + hostile + ":1 a spiffe://m1/a", problem);
    }
}

// Nothing to learn from the outcome but that there is one: whole routes, or an error that names a line.
void any_bytes_have_an_outcome() {
    std::mt19937      random(11);
    const std::string words("a /x:[]#\n\t spiffe://m 1:\r\x7f\xff\0", 27);
    for (int round = 0; round < 20'000; ++round) {
        std::string text;
        for (size_t left = random() % 120; left > 0; --left) {
            text += round % 2 == 0 ? words[random() % words.size()] : static_cast<char>(random());
        }
        std::string  error;
        const Routes routes = parse_routes(round % 3 == 0 ? Mode::egress : Mode::ingress, text, error);
        check::row          = "round " + std::to_string(round);
        CHECK(error.empty() || (routes.empty() && error.rfind("routes line ", 0) == 0));
        for (const auto & [name, route] : routes) {
            CHECK(name == route.name && route.unix_path.front() == '/');
        }
    }
}

}  // namespace

int main() {
    return check::run({
        TEST(an_ingress_line_is_alpn_path_peer),
        TEST(an_egress_line_is_path_address_alpn_peer_and_named_by_its_socket),
        TEST(a_socket_without_the_suffix_is_named_whole),
        TEST(only_alpns_below_the_prefix_are_rpc),
        TEST(comments_empty_lines_and_spaces_are_skipped),
        TEST(the_last_line_needs_no_end),
        TEST(each_error_names_its_line),
        TEST(an_address_must_have_host_and_port),
        TEST(a_name_stands_once),
        TEST(an_alpn_has_at_most_255_bytes),
        TEST(a_path_fits_into_a_socket_s_address),
        TEST(control_bytes_are_refused),
        TEST(any_bytes_have_an_outcome),
    });
}
