// The byte stream under llama.cpp's RPC: all bytes, in order, in few system calls; a peer that left is false, never a signal.
#include <sys/time.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "raw_peer.h"

namespace {

constexpr size_t LARGE_BYTES = 48 * 1024 * 1024;

std::atomic<int> broken_pipes{ 0 };
std::atomic<int> alarms{ 0 };

void let_alarms_pass() {
    for (const int enough = alarms + 20; alarms < enough;) {
        std::this_thread::yield();
    }
}

void what_one_end_sends_the_other_receives() {
    const Folder     folder;
    const socket_ptr server = socket_t::create_server(folder.socket().c_str(), 1);
    const socket_ptr client = socket_t::connect(folder.socket().c_str(), 1);
    CHECK(server && client);
    const socket_ptr served = server->accept();
    char             question[6];
    char             answer[3];
    CHECK(client->send_data("abcdef", 6) && client->flush());
    CHECK(served->recv_data(question, 6) && std::memcmp(question, "abcdef", 6) == 0);
    CHECK(served->send_data("xyz", 3) && served->flush());
    CHECK(client->recv_data(answer, 3) && std::memcmp(answer, "xyz", 3) == 0);
}

void a_message_leaves_whole_at_flush_and_not_before() {
    const Connection connection;
    const uint64_t   size = 3;
    CHECK(connection.ours->send_data("\1", 1));
    CHECK(connection.ours->send_data(&size, sizeof(size)));
    CHECK(connection.ours->send_data("abc", 3));
    CHECK(connection.peer.read_now(100).empty());
    CHECK(connection.ours->flush());
    CHECK_EQ(connection.peer.read_now(100).size(), size_t{ 12 });
}

void flushing_nothing_sends_nothing() {
    const Connection connection;
    CHECK(connection.ours->flush());
    CHECK(connection.ours->send_data(nullptr, 0) && connection.ours->flush());
    CHECK(connection.ours->recv_data(nullptr, 0));
    CHECK(connection.peer.read_now(1).empty());
}

// Sizes around the buffer's, in every order of two: what was gathered goes first, whatever comes behind it.
void messages_around_the_buffer_s_size_keep_their_order() {
    const Bytes  bytes   = random_bytes(4 * BUFFER_BYTES);
    const size_t sizes[] = { 0, 1, 9, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 2 * BUFFER_BYTES - 1 };
    for (const size_t first : sizes) {
        for (const size_t second : sizes) {
            const Connection connection;
            const size_t     whole = first + second;
            bool             sent  = false;
            check::row             = std::to_string(first) + " and " + std::to_string(second) + " bytes";
            std::thread sending([&] {
                sent = connection.ours->send_data(bytes.data(), first) && connection.ours->send_data(bytes.data() + first, second) &&
                       connection.ours->flush();
            });
            const Bytes seen = connection.peer.read(whole, whole);
            sending.join();
            CHECK(sent);
            CHECK(seen == Bytes(bytes.begin(), bytes.begin() + static_cast<long>(whole)));
        }
    }
}

void bytes_that_come_one_by_one_are_put_together() {
    const Connection connection;
    const Bytes      bytes = random_bytes(2000);
    std::thread      sending([&] {
        for (const char & byte : bytes) {
            connection.peer.write(&byte, 1);
        }
    });
    Bytes seen(bytes.size());
    CHECK(connection.ours->recv_data(seen.data(), 1999));
    CHECK(connection.ours->recv_data(seen.data() + 1999, 1));
    sending.join();
    CHECK(seen == bytes);
}

void what_is_read_ahead_is_not_lost() {
    const Connection connection;
    const Bytes      bytes = random_bytes(3 * BUFFER_BYTES);
    std::thread      sending([&] {
        connection.peer.write(bytes.data(), bytes.size());
        connection.peer.end_write();
    });
    std::mt19937 random(3);
    Bytes        seen(bytes.size());
    for (size_t at = 0; at < seen.size();) {
        // Small headers mostly, now and then more than the buffer holds.
        const size_t size = std::min<size_t>(seen.size() - at, random() % 50 == 0 ? BUFFER_BYTES + random() % 1000 : random() % 600);
        CHECK(connection.ours->recv_data(seen.data() + at, size));
        at += size;
    }
    sending.join();
    CHECK(seen == bytes);
    CHECK(!connection.ours->recv_data(seen.data(), 1));
}

void a_large_message_gets_through_narrow_sockets_both_ways() {
    const Connection connection(4096);
    const Bytes      bytes = random_bytes(LARGE_BYTES);
    bool             sent  = false;
    std::thread      there([&] { sent = connection.ours->send_data(bytes.data(), bytes.size()) && connection.ours->flush(); });
    CHECK(connection.peer.read(bytes.size(), 100'000) == bytes);
    there.join();
    CHECK(sent);
    std::thread back([&] { connection.peer.write(bytes.data(), bytes.size()); });
    Bytes       seen(bytes.size());
    CHECK(connection.ours->recv_data(seen.data(), seen.size()));
    back.join();
    CHECK(seen == bytes);
}

// Without SA_RESTART each alarm breaks off the system call that it finds. The peer lets several pass before it moves a byte,
// so that both calls are broken off with nothing done.
void interrupted_calls_lose_nothing() {
    struct sigaction action = {};
    struct sigaction before = {};
    action.sa_handler       = [](int) { ++alarms; };
    sigaction(SIGALRM, &action, &before);
    const Connection connection;
    const Bytes      bytes = random_bytes(LARGE_BYTES / 4);
    Bytes            seen;
    // Only the thread under test hears the alarm.
    sigset_t alarm_only;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarm_only, nullptr);
    std::thread reading([&] {
        let_alarms_pass();
        seen = connection.peer.read(bytes.size(), 3000);
        let_alarms_pass();
        connection.peer.write(seen.data(), seen.size());
    });
    pthread_sigmask(SIG_UNBLOCK, &alarm_only, nullptr);
    const itimerval each_ms = { { 0, 1000 }, { 0, 1000 } };
    const itimerval never   = {};
    setitimer(ITIMER_REAL, &each_ms, nullptr);
    Bytes back(bytes.size());
    CHECK(connection.ours->send_data(bytes.data(), bytes.size()) && connection.ours->flush());
    CHECK(connection.ours->recv_data(back.data(), back.size()));
    setitimer(ITIMER_REAL, &never, nullptr);
    reading.join();
    sigaction(SIGALRM, &before, nullptr);
    CHECK(seen == bytes);
    CHECK(back == bytes);
}

void the_end_of_the_stream_is_false_even_within_a_message() {
    Connection connection;
    char       seen[8];
    connection.peer.write("abcdef", 6);
    connection.peer.leave();
    CHECK(connection.ours->recv_data(seen, 4));
    CHECK(!connection.ours->recv_data(seen, 4));
    CHECK(!connection.ours->recv_data(seen, 1));
}

void sending_to_a_peer_that_left_is_false_and_no_signal() {
    Connection connection;
    const int  before = broken_pipes;
    connection.peer.leave();
    CHECK(connection.ours->send_data("abc", 3));
    CHECK(!connection.ours->flush());
    const Bytes large = random_bytes(2 * BUFFER_BYTES);
    CHECK(!connection.ours->send_data(large.data(), large.size()));
    CHECK_EQ(broken_pipes - before, 0);
}

void a_peer_that_leaves_while_it_is_sent_to_is_false_and_no_signal() {
    Connection  connection;
    const int   before = broken_pipes;
    const Bytes large  = random_bytes(LARGE_BYTES);
    bool        sent   = true;
    std::thread sending([&] { sent = connection.ours->send_data(large.data(), large.size()); });
    CHECK_EQ(connection.peer.read(1000, 1000).size(), size_t{ 1000 });
    connection.peer.leave();
    sending.join();
    CHECK(!sent);
    CHECK_EQ(broken_pipes - before, 0);
}

void after_init_the_process_ignores_broken_pipes() {
    struct sigaction before = {};
    struct sigaction now    = {};
    sigaction(SIGPIPE, nullptr, &before);
    CHECK(rpc_transport_init());
    sigaction(SIGPIPE, &before, &now);
    CHECK(now.sa_handler == SIG_IGN);
    rpc_transport_shutdown();
}

void capability_bytes_are_all_zero() {
    const Connection connection;
    uint8_t          caps[RPC_CONN_CAPS_SIZE];
    std::memset(caps, 0xff, sizeof(caps));
    connection.ours->update_caps(caps);
    connection.ours->get_caps(caps);
    for (const uint8_t byte : caps) {
        CHECK_EQ(static_cast<int>(byte), 0);
    }
}

}  // namespace

int main() {
    std::signal(SIGPIPE, [](int) { ++broken_pipes; });
    return check::run({
        TEST(what_one_end_sends_the_other_receives),
        TEST(a_message_leaves_whole_at_flush_and_not_before),
        TEST(flushing_nothing_sends_nothing),
        TEST(messages_around_the_buffer_s_size_keep_their_order),
        TEST(bytes_that_come_one_by_one_are_put_together),
        TEST(what_is_read_ahead_is_not_lost),
        TEST(a_large_message_gets_through_narrow_sockets_both_ways),
        TEST(interrupted_calls_lose_nothing),
        TEST(the_end_of_the_stream_is_false_even_within_a_message),
        TEST(sending_to_a_peer_that_left_is_false_and_no_signal),
        TEST(a_peer_that_leaves_while_it_is_sent_to_is_false_and_no_signal),
        TEST(after_init_the_process_ignores_broken_pipes),
        TEST(capability_bytes_are_all_zero),
    });
}
