// Who may hold a worker, who makes room, who is cut and what is counted, with real threads.
#include "registry.h"

#include <poll.h>

#include <thread>
#include <vector>

#include "check.h"

namespace {

using rpcmesh::Clock;
using rpcmesh::Json;
using rpcmesh::Reason;
using rpcmesh::Registry;
using rpcmesh::Session;
using SessionPtr = std::shared_ptr<Session>;

// Long enough that a test that waits for it has failed.
constexpr int    FOREVER_MS = 60'000;
constexpr size_t MANY       = 1000;

const std::string NO_SESSIONS = R"({"sessions":[],"failing_routes":{}})";

SessionPtr handshake_of(Registry & registry) {
    return registry.open("10.0.0.9:5000", MANY);
}

SessionPtr session_of(Registry & registry, const std::string & route = "rpcmesh/rpc/w", const std::string & serial = "01") {
    SessionPtr session = handshake_of(registry);
    registry.established(*session, route, "spiffe://m1/coordinator", serial, "TLSv1.3", "TLS_AES_128_GCM_SHA256");
    return session;
}

bool is_woken(const Session & session) {
    pollfd watched = { session.wake.read.get(), POLLIN, 0 };
    return poll(&watched, 1, 0) == 1;
}

std::string totals_of(Registry & registry) {
    Json json;
    json.open_object();
    registry.write_totals(json);
    return json.close_object().text();
}

std::string sessions_of(Registry & registry) {
    Json json;
    json.open_object();
    registry.write_sessions(json);
    return json.close_object().text();
}

bool shows(const std::string & text, const std::string & part) {
    return text.find(part) != std::string::npos;
}

Reason revoked_02(const Session & session) {
    return session.serial == "02" ? Reason::revoked : Reason::none;
}

void a_free_lease_is_taken() {
    Registry         registry;
    const SessionPtr session = session_of(registry);
    CHECK(registry.take_lease("w", *session, 0));
}

void a_held_lease_is_busy() {
    Registry         registry;
    const SessionPtr holder = session_of(registry);
    const SessionPtr other  = session_of(registry);
    CHECK(registry.take_lease("w", *holder, 0));
    CHECK(!registry.take_lease("w", *other, 0));
    CHECK(!registry.take_lease("w", *other, 20));
}

void each_worker_has_a_lease_of_its_own() {
    Registry         registry;
    const SessionPtr session = session_of(registry);
    CHECK(registry.take_lease("w", *session, 0));
    CHECK(registry.take_lease("v", *session, 0));
    registry.release_lease("w");
    CHECK(!registry.take_lease("v", *session, 0));
    CHECK(registry.take_lease("w", *session, 0));
}

// Lets another thread begin to wait for "w", does `meanwhile`, and says what the other got. Whether it waited already is
// the scheduler's choice, so a test does this several times.
template <typename Meanwhile> bool taken_by_waiter(Registry & registry, const Session & waiter, Meanwhile meanwhile) {
    std::atomic<bool> begun{ false };
    bool              taken = false;
    const auto        since = Clock::now();
    std::thread       waiting([&] {
        begun = true;
        taken = registry.take_lease("w", waiter, FOREVER_MS);
    });
    while (!begun) {
        std::this_thread::yield();
    }
    meanwhile();
    waiting.join();
    CHECK(Clock::now() - since < std::chrono::milliseconds(FOREVER_MS / 2));
    return taken;
}

void a_released_lease_goes_to_the_one_that_waits() {
    for (int round = 0; round < 50 && check::failures == 0; ++round) {
        Registry         registry;
        const SessionPtr holder = session_of(registry);
        const SessionPtr waiter = session_of(registry);
        CHECK(registry.take_lease("w", *holder, 0));
        CHECK(taken_by_waiter(registry, *waiter, [&] {
            CHECK(!registry.take_lease("w", *holder, 0));
            registry.release_lease("w");
        }));
        CHECK(!registry.take_lease("w", *holder, 0));
    }
}

void one_of_many_that_wait_gets_it_each_time() {
    Registry         registry;
    const SessionPtr first = session_of(registry);
    CHECK(registry.take_lease("w", *first, 0));
    std::atomic<int>         holders{ 0 };
    std::atomic<int>         served{ 0 };
    std::vector<std::thread> waiting;
    for (int i = 0; i < 8; ++i) {
        waiting.emplace_back([&] {
            const SessionPtr session = session_of(registry);
            CHECK(registry.take_lease("w", *session, FOREVER_MS));
            CHECK_EQ(++holders, 1);
            ++served;
            --holders;
            registry.release_lease("w");
            registry.close(session);
        });
    }
    registry.release_lease("w");
    for (std::thread & thread : waiting) {
        thread.join();
    }
    CHECK_EQ(served.load(), 8);
}

void a_cut_session_stops_waiting() {
    for (int round = 0; round < 50 && check::failures == 0; ++round) {
        Registry         registry;
        const SessionPtr holder = session_of(registry);
        const SessionPtr waiter = session_of(registry, "rpcmesh/rpc/w", "02");
        CHECK(registry.take_lease("w", *holder, 0));
        CHECK(!taken_by_waiter(registry, *waiter, [&] { registry.cut_if(revoked_02); }));
        CHECK(waiter->cut_reason == Reason::revoked);
    }
}

void a_cut_session_takes_no_lease_even_when_it_is_free() {
    Registry         registry;
    const SessionPtr session = session_of(registry);
    session->cut(Reason::revoked);
    CHECK(!registry.take_lease("w", *session, 0));
    const SessionPtr other = session_of(registry);
    CHECK(registry.take_lease("w", *other, 0));
}

void a_cut_wakes_the_session_and_its_first_reason_stays() {
    Registry         registry;
    const SessionPtr session = session_of(registry);
    CHECK(!is_woken(*session));
    session->cut(Reason::revoked);
    CHECK(is_woken(*session));
    // More often than the pipe has room for.
    for (int i = 0; i < 100'000; ++i) {
        session->cut(Reason::stopping);
    }
    CHECK(session->cut_reason == Reason::revoked);
}

void a_rule_cuts_whom_it_names_and_nobody_else() {
    Registry         registry;
    const SessionPtr good      = session_of(registry, "r", "01");
    const SessionPtr bad       = session_of(registry, "r", "02");
    const SessionPtr handshake = handshake_of(registry);
    registry.cut_if(revoked_02);
    CHECK(bad->cut_reason == Reason::revoked && is_woken(*bad));
    CHECK(good->cut_reason == Reason::none && !is_woken(*good));
    CHECK(handshake->cut_reason == Reason::none && !is_woken(*handshake));
}

void a_rule_holds_for_sessions_established_later() {
    Registry         registry;
    const SessionPtr begun_before = handshake_of(registry);
    registry.cut_if(revoked_02);
    CHECK(!registry.established(*begun_before, "r", "p", "02", "", ""));
    CHECK(begun_before->cut_reason == Reason::revoked && is_woken(*begun_before));
    CHECK(session_of(registry, "r", "02")->cut_reason == Reason::revoked);
    CHECK(session_of(registry, "r", "01")->cut_reason == Reason::none);
}

void a_new_rule_replaces_the_old_one() {
    Registry registry;
    registry.cut_if(revoked_02);
    registry.cut_if([](const Session & session) { return session.route == "gone" ? Reason::route_removed : Reason::none; });
    CHECK(session_of(registry, "gone", "01")->cut_reason == Reason::route_removed);
    CHECK(session_of(registry, "kept", "02")->cut_reason == Reason::none);
}

void a_session_that_was_cut_while_shaking_hands_is_not_to_be_served() {
    Registry         registry;
    const SessionPtr made_room = handshake_of(registry);
    const SessionPtr good      = handshake_of(registry);
    made_room->cut(Reason::too_many_connections);
    CHECK(!registry.established(*made_room, "r", "p", "01", "", ""));
    CHECK(registry.established(*good, "r", "p", "01", "", ""));
}

void the_oldest_handshake_makes_room() {
    Registry         registry;
    const SessionPtr oldest = registry.open("a", 2);
    const SessionPtr second = registry.open("b", 2);
    const SessionPtr third  = registry.open("c", 2);
    CHECK(third != nullptr && third->cut_reason == Reason::none);
    CHECK(oldest->cut_reason == Reason::too_many_connections && is_woken(*oldest));
    CHECK(second->cut_reason == Reason::none);
    // One that is on its way out already is no room made: the next oldest goes.
    CHECK(registry.open("d", 2) != nullptr);
    CHECK(second->cut_reason == Reason::too_many_connections);
}

void who_has_proved_who_it_is_makes_no_room() {
    Registry         registry;
    const SessionPtr proven = registry.open("a", 2);
    registry.established(*proven, "r", "p", "01", "", "");
    const SessionPtr stranger = registry.open("b", 2);
    CHECK(registry.open("c", 2) != nullptr);
    CHECK(proven->cut_reason == Reason::none);
    CHECK(stranger->cut_reason == Reason::too_many_connections);
}

void when_all_have_proved_it_the_next_is_refused() {
    Registry         registry;
    const SessionPtr proven = registry.open("a", 1);
    registry.established(*proven, "r", "p", "01", "", "");
    CHECK(registry.open("b", 1) == nullptr);
    CHECK(proven->cut_reason == Reason::none);
    CHECK(shows(totals_of(registry), R"("refused":{"too_many_connections":1})"));
    CHECK(shows(totals_of(registry), R"("accepted":1,)"));
}

// The cut ones are still leaving: their threads and descriptors are bounded too.
void no_more_than_twice_the_limit_are_open() {
    Registry                registry;
    std::vector<SessionPtr> sessions;
    for (int i = 0; i < 6; ++i) {
        sessions.push_back(registry.open("a", 3));
        CHECK(sessions.back() != nullptr);
    }
    CHECK(registry.open("b", 3) == nullptr);
    registry.close(sessions.front());
    CHECK(registry.open("c", 3) != nullptr);
}

void a_closed_session_leaves_its_place() {
    Registry         registry;
    const SessionPtr session = registry.open("a", 1);
    registry.established(*session, "r", "p", "01", "", "");
    registry.close(session);
    const SessionPtr next = registry.open("b", 1);
    CHECK(next != nullptr && next->id != session->id);
}

void status_shows_established_sessions_only() {
    Registry         registry;
    const SessionPtr handshake = handshake_of(registry);
    CHECK_EQ(sessions_of(registry), NO_SESSIONS);
    const SessionPtr session = session_of(registry);
    session->bytes_in        = 7;
    session->bytes_out       = 9;
    const std::string text   = sessions_of(registry);
    CHECK(shows(text, R"({"sessions":[{"id":2,"route":"rpcmesh/rpc/w","peer":"spiffe://m1/coordinator","remote":"10.0.0.9:5000",)"
                      R"("tls_version":"TLSv1.3","cipher":"TLS_AES_128_GCM_SHA256","age_s":)"));
    CHECK(shows(text, R"("bytes_in":7,"bytes_out":9}],)"));
    registry.close(session);
    CHECK_EQ(sessions_of(registry), NO_SESSIONS);
}

void a_route_is_failing_until_it_works_again() {
    Registry registry;
    registry.count_handshake_failure(Reason::peer_unreachable, "node-a.w");
    registry.count_handshake_failure(Reason::untrusted_ca, "node-a.w");
    registry.count_handshake_failure(Reason::not_tls, "node-b.w");
    registry.count_handshake_failure(Reason::handshake_timeout, "");
    CHECK(shows(sessions_of(registry), R"("failing_routes":{"node-a.w":"untrusted_ca","node-b.w":"not_tls"})"));
    registry.close(session_of(registry, "node-a.w"));
    CHECK(shows(sessions_of(registry), R"("failing_routes":{"node-b.w":"not_tls"})"));
}

void totals_count_open_and_closed_sessions() {
    Registry registry;
    CHECK_EQ(totals_of(registry),
             R"({"totals":{"accepted":0,"sessions":0,"bytes_in":0,"bytes_out":0,"handshake_failures":{},"refused":{},"last_refusal":null}})");
    const SessionPtr first  = session_of(registry);
    const SessionPtr second = session_of(registry);
    first->bytes_in         = 100;
    first->bytes_out        = 1;
    second->bytes_in        = 20;
    registry.close(first);
    registry.close(handshake_of(registry));
    registry.count_handshake_failure(Reason::untrusted_ca, "");
    registry.count_handshake_failure(Reason::untrusted_ca, "");
    registry.count_handshake_failure(Reason::not_tls, "node-a.w");
    registry.count_refused(name_of(Reason::lease_busy));
    CHECK(shows(totals_of(registry), R"({"totals":{"accepted":3,"sessions":2,"bytes_in":120,"bytes_out":1,)"
                                     R"("handshake_failures":{"not_tls":1,"untrusted_ca":2},"refused":{"lease_busy":1},)"));
}

void the_last_refusal_is_shown_with_what_is_known_of_it() {
    Registry registry;
    registry.count_refused("lease_busy", "rpcmesh/rpc/w");
    CHECK(shows(totals_of(registry), R"("last_refusal":{"reason":"lease_busy","route":"rpcmesh/rpc/w","detail":"","at":"20)"));
    registry.count_refused("op_forbidden", "rpcmesh/rpc/v", "CUSTOM: \"never\"");
    CHECK(shows(totals_of(registry), R"("refused":{"lease_busy":1,"op_forbidden":1},)"
                                     R"("last_refusal":{"reason":"op_forbidden","route":"rpcmesh/rpc/v","detail":"CUSTOM: \"never\"","at":"20)"));
}

void stopping_cuts_all_and_waits_for_the_last() {
    Registry                 registry;
    std::atomic<int>         left{ 0 };
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        const SessionPtr session = i % 2 == 0 ? session_of(registry) : handshake_of(registry);
        threads.emplace_back([&registry, &left, session] {
            pollfd watched = { session->wake.read.get(), POLLIN, 0 };
            CHECK_EQ(poll(&watched, 1, FOREVER_MS), 1);
            CHECK(session->cut_reason == Reason::stopping);
            ++left;
            registry.close(session);
        });
    }
    registry.cut_all_and_wait();
    CHECK_EQ(left.load(), 4);
    for (std::thread & thread : threads) {
        thread.join();
    }
}

// Mostly for the thread sanitizer: everything at once, and the sums are right at the end.
void all_of_it_at_once_adds_up() {
    constexpr int            THREADS = 4;
    constexpr int            ROUNDS  = 200;
    Registry                 registry;
    std::atomic<int>         holders{ 0 };
    std::vector<std::thread> threads;
    for (int i = 0; i < THREADS; ++i) {
        threads.emplace_back([&] {
            for (int round = 0; round < ROUNDS; ++round) {
                const SessionPtr session = session_of(registry, "r", round % 7 == 0 ? "02" : "01");
                session->bytes_in += 3;
                if (registry.take_lease("w", *session, round % 2)) {
                    CHECK_EQ(++holders, 1);
                    --holders;
                    registry.release_lease("w");
                }
                registry.close(session);
            }
        });
    }
    for (int round = 0; round < ROUNDS; ++round) {
        registry.cut_if(revoked_02);
        CHECK(!sessions_of(registry).empty());
        CHECK(!totals_of(registry).empty());
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
    CHECK(shows(totals_of(registry), R"({"accepted":800,"sessions":800,"bytes_in":2400,)"));
    CHECK_EQ(sessions_of(registry), NO_SESSIONS);
}

}  // namespace

int main() {
    return check::run({
        TEST(a_free_lease_is_taken),
        TEST(a_held_lease_is_busy),
        TEST(each_worker_has_a_lease_of_its_own),
        TEST(a_released_lease_goes_to_the_one_that_waits),
        TEST(one_of_many_that_wait_gets_it_each_time),
        TEST(a_cut_session_stops_waiting),
        TEST(a_cut_session_takes_no_lease_even_when_it_is_free),
        TEST(a_cut_wakes_the_session_and_its_first_reason_stays),
        TEST(a_rule_cuts_whom_it_names_and_nobody_else),
        TEST(a_rule_holds_for_sessions_established_later),
        TEST(a_new_rule_replaces_the_old_one),
        TEST(a_session_that_was_cut_while_shaking_hands_is_not_to_be_served),
        TEST(the_oldest_handshake_makes_room),
        TEST(who_has_proved_who_it_is_makes_no_room),
        TEST(when_all_have_proved_it_the_next_is_refused),
        TEST(no_more_than_twice_the_limit_are_open),
        TEST(a_closed_session_leaves_its_place),
        TEST(status_shows_established_sessions_only),
        TEST(a_route_is_failing_until_it_works_again),
        TEST(totals_count_open_and_closed_sessions),
        TEST(the_last_refusal_is_shown_with_what_is_known_of_it),
        TEST(stopping_cuts_all_and_waits_for_the_last),
        TEST(all_of_it_at_once_adds_up),
    });
}
