// Graphs in a session: kept until whole, forwarded with the worker's addresses, run again only while the worker has them.
#include "guard_session.h"

namespace {

using namespace frames;

Bytes sum(const Session & session, uint32_t device = 0) {
    return sum_graph(session.handle, session.base, device);
}

void a_graph_reaches_the_worker_with_its_own_addresses() {
    Session session;
    CHECK(session.refused(sum(session)) == Refusal::none);
    const Bytes & payload = session.worker.requests[session.worker.requests.size() - 2].payload;
    CHECK_EQ(payload.size(), sum(session).size() - REQUEST_HEADER_BYTES);
    for (size_t i = 0; i < 3; ++i) {
        const uint8_t * tensor = payload.data() + GRAPH_HEAD_BYTES + 8 + i * TENSOR_BYTES;
        CHECK_EQ(load64(tensor + TENSOR_BUFFER_OFFSET), session.real_handle());
        CHECK_EQ(load64(tensor + TENSOR_DATA_OFFSET), session.real().base + 256 * i);
    }
    CHECK_EQ(session.guard.last_graph().nodes, 1u);
    CHECK_EQ(session.guard.last_graph().tensors, 3u);
}

void the_summary_of_a_graph_counts_its_nodes_by_op() {
    Session session;
    Wanted  first  = session.floats();
    Wanted  second = session.floats(256);
    Wanted  third  = session.floats(512);
    second.id      = 0x2000;
    third.id       = 0x3000;
    second.op = third.op = ADD;
    second.flags = third.flags = 16;
    second.src                 = { first.id, first.id };
    third.src                  = { second.id, first.id };
    const std::vector<Bytes> tensors = { tensor(first), tensor(second), tensor(third) };
    CHECK(session.refused(graph({ second.id, third.id }, tensors)) == Refusal::none);
    CHECK_EQ(session.guard.last_graph().ops[ADD], 2u);
    CHECK_EQ(session.guard.last_graph().ops[0], 0u);
    CHECK(session.refused(graph({ first.id, third.id }, tensors)) == Refusal::none);
    CHECK_EQ(session.guard.last_graph().ops[ADD], 1u);
    CHECK_EQ(session.guard.last_graph().ops[0], 1u);
}

void nothing_of_a_graph_is_forwarded_before_it_is_whole() {
    Session      session;
    const size_t before = session.to_worker.size();
    const Bytes  whole  = sum(session);
    session.send(Bytes(whole.begin(), whole.end() - 1));
    CHECK_EQ(session.to_worker.size(), before);
    CHECK_EQ(session.held(), size_t(0));
    session.send({ whole.back() });
    CHECK_EQ(session.worker.count(GRAPH_COMPUTE), size_t(1));
}

void a_graph_of_several_pieces_and_the_next_request_arrive_in_order() {
    Session     session;
    const Bytes both = sum(session) + get(tensor(session.floats(512)), 0, 256);
    session.send(Bytes(both.begin(), both.begin() + 500));
    session.send(Bytes(both.begin() + 500, both.end()));
    const size_t n = session.worker.requests.size();
    CHECK_EQ(int(session.worker.requests[n - 3].command), int(GRAPH_COMPUTE));
    CHECK_EQ(int(session.worker.requests[n - 2].command), int(DEVICE_COUNT));
    CHECK_EQ(int(session.worker.requests[n - 1].command), int(GET_TENSOR));
    CHECK_EQ(session.complaint(), "");
}

// Ops 92 to 95 carry a function pointer in op_params.
void ops_with_a_function_pointer_are_never_forwarded() {
    for (uint32_t op = 92; op <= 95; ++op) {
        Session session;
        Wanted  call = session.floats();
        call.op      = op;
        call.flags   = 16;
        check::row   = "op " + std::to_string(op);
        CHECK(session.refused(graph({ call.id }, { tensor(call) })) == Refusal::op_forbidden);
        CHECK_EQ(session.guard.finding().command, int(GRAPH_COMPUTE));
    }
}

void a_graph_of_an_unknown_op_is_refused() {
    Session session;
    Wanted  call = session.floats();
    call.op      = 101;
    call.flags   = 16;
    CHECK(session.refused(graph({ call.id }, { tensor(call) })) == Refusal::op_forbidden);
}

void node_id_0_and_unknown_sources_are_refused() {
    Session session;
    CHECK(session.refused(graph({ 0 }, { tensor(session.floats()) })) == Refusal::graph_reference);
    Session other;
    CHECK(other.refused(graph({ 0x77 }, { tensor(other.floats()) })) == Refusal::graph_reference);
}

void a_graph_that_refers_to_data_outside_every_buffer_is_refused() {
    Session session;
    CHECK(bool(session.refused(sum_graph(session.handle, session.base - 1)) == Refusal::tensor_bounds));
    Session other;
    CHECK(other.refused(sum_graph(session.handle, session.base + Session::BUFFER_BYTES - 767)) == Refusal::tensor_bounds);
    Session unknown;
    CHECK(unknown.refused(sum_graph(9, session.base)) == Refusal::buffer_unknown);
}

void an_absolute_address_without_a_buffer_is_refused() {
    Session session;
    CHECK(session.refused(sum_graph(0, 0x7f0000000000)) != Refusal::none);
    Session zero;
    CHECK(zero.refused(sum_graph(0, 0)) != Refusal::none);
}

void a_graph_on_another_device_s_buffer_is_refused() {
    Session session;
    CHECK(session.refused(sum(session, 1)) == Refusal::buffer_unknown);
}

void a_graph_for_an_unknown_device_is_refused() {
    Session session;
    CHECK(session.refused(sum(session, 16)) == Refusal::device_unknown);
}

void a_graph_whose_counts_disagree_with_its_length_is_refused() {
    Session session;
    Bytes   longer = sum(session);
    store(&longer[REQUEST_HEADER_BYTES + 4], 0xffffffff, 4);
    CHECK(session.refused(longer) != Refusal::none);
    Session other;
    Bytes   more = sum(other);
    store(&more[REQUEST_HEADER_BYTES + 16], 0xffffffff, 4);
    CHECK(other.refused(more) != Refusal::none);
}

void a_graph_can_be_computed_again() {
    Session session;
    session.send(sum(session));
    CHECK(session.refused(of_device(GRAPH_RECOMPUTE)) == Refusal::none);
    CHECK(session.refused(of_device(GRAPH_RECOMPUTE)) == Refusal::none);
    CHECK_EQ(session.worker.count(GRAPH_RECOMPUTE), size_t(2));
}

void a_recompute_without_a_graph_is_refused() {
    CHECK_REFUSED(of_device(GRAPH_RECOMPUTE), recompute_without_graph);
}

void a_device_recomputes_its_own_graph_only() {
    Session        session;
    const uint64_t there = load64(&session.ask(alloc(4096, 1))[8]);
    session.send(sum_graph(there, load64(&session.ask(of_buffer(BUFFER_GET_BASE, there))[8]), 1));
    CHECK(session.refused(of_device(GRAPH_RECOMPUTE, 1)) == Refusal::none);
    CHECK(session.refused(of_device(GRAPH_RECOMPUTE, 0)) == Refusal::recompute_without_graph);
}

void a_recompute_after_a_buffer_of_the_graph_was_freed_is_refused() {
    Session session;
    session.send(sum(session));
    session.send(of_buffer(FREE_BUFFER, session.handle));
    CHECK(session.refused(of_device(GRAPH_RECOMPUTE)) == Refusal::recompute_without_graph);
}

// The worker drops all of its graphs when any buffer is freed, and would cut the connection.
void a_recompute_after_any_free_is_refused_until_the_next_graph() {
    Session        session;
    const uint64_t other = load64(&session.ask(alloc(64))[8]);
    session.send(sum(session) + of_buffer(FREE_BUFFER, other) + sum(session));
    CHECK(session.refused(of_device(GRAPH_RECOMPUTE)) == Refusal::none);
    Session        second;
    const uint64_t spare = load64(&second.ask(alloc(64))[8]);
    second.send(sum(second) + of_buffer(FREE_BUFFER, spare));
    CHECK(second.refused(of_device(GRAPH_RECOMPUTE)) == Refusal::recompute_without_graph);
}

void the_worker_is_busy_until_a_graph_is_computed() {
    Session session;
    Bytes   whole = sum(session);
    CHECK(!session.guard.worker_is_busy());
    CHECK(session.guard.from_client(whole.data(), whole.size()).kind == Kind::drop);
    CHECK(!session.guard.worker_is_busy());
    CHECK(session.guard.from_client(whole.data() + 9, whole.size() - 9).kind == Kind::emit);
    CHECK(session.guard.worker_is_busy());
    CHECK(session.guard.from_client(whole.data() + 9, whole.size() - 9).kind == Kind::drop);
    Bytes done = reply(number(2, 4));
    CHECK(session.guard.from_worker(done.data(), done.size()).kind == Kind::drop);
    CHECK(!session.guard.worker_is_busy());
}

void the_command_that_the_worker_is_at_is_the_first_that_it_has_not_answered() {
    Session session;
    Bytes   whole = sum(session);
    Bytes   next  = get(tensor(session.floats()), 0, 4);
    CHECK_EQ(session.guard.worker_command(), session.guard.last_command());
    session.guard.from_client(whole.data(), whole.size());
    session.guard.from_client(whole.data() + 9, whole.size() - 9);
    session.guard.from_client(whole.data() + 9, whole.size() - 9);
    session.guard.from_client(next.data(), next.size());
    CHECK_EQ(session.guard.last_command(), int(GET_TENSOR));
    CHECK_EQ(session.guard.worker_command(), int(GRAPH_COMPUTE));
    Bytes computed = reply(number(2, 4));
    session.guard.from_worker(computed.data(), computed.size());
    CHECK_EQ(session.guard.worker_command(), int(GET_TENSOR));
    Bytes content = reply(Bytes(4, 1));
    session.guard.from_worker(content.data(), content.size());
    session.send(of_device(GRAPH_RECOMPUTE));
    CHECK_EQ(session.guard.worker_command(), int(GRAPH_RECOMPUTE));
}

void a_frame_is_begun_from_its_head_to_its_last_byte() {
    Session     session;
    const Bytes whole = set(tensor(session.floats()), 0, Bytes(16));
    CHECK(!session.guard.is_in_frame());
    session.send(Bytes(whole.begin(), whole.end() - 16));
    CHECK(session.guard.is_in_frame());
    session.send(Bytes(15));
    CHECK(session.guard.is_in_frame());
    session.send(Bytes(1));
    CHECK(!session.guard.is_in_frame());
    const Bytes graph = sum(session);
    session.send(Bytes(graph.begin(), graph.end() - 1));
    CHECK(session.guard.is_in_frame());
    session.send({ graph.back() });
    CHECK(!session.guard.is_in_frame());
    CHECK_EQ(session.complaint(), "");
}

// Or a verdict would depend on how fast the worker is.
void the_guard_s_own_question_does_not_count_devices() {
    Session session;
    session.send(sum(session));
    CHECK(!session.guard.worker_is_busy());
    CHECK(session.refused(of_device(GRAPH_RECOMPUTE, FakeWorker::DEVICES)) == Refusal::recompute_without_graph);
}

void a_client_need_not_wait_for_a_graph() {
    Session session;
    Bytes   whole = sum(session);
    Bytes   next  = get(tensor(session.floats()), 0, 4);
    session.guard.from_client(whole.data(), whole.size());
    session.guard.from_client(whole.data() + 9, whole.size() - 9);
    session.guard.from_client(whole.data() + 9, whole.size() - 9);
    CHECK(session.guard.from_client(next.data(), next.size()).kind == Kind::pass);
    CHECK(session.guard.from_client(next.data(), next.size()).kind == Kind::wait);
    Bytes replies = reply(number(2, 4)) + reply(Bytes(4, 1));
    CHECK(session.guard.from_worker(replies.data(), replies.size()).kind == Kind::drop);
    CHECK(session.guard.from_worker(replies.data() + 12, 12).kind == Kind::pass);
}

void a_client_that_only_sends_graphs_waits_for_the_worker_at_last() {
    Session session;
    session.send(sum(session));
    Kind kind = Kind::emit;
    int  sent = 0;
    for (Bytes again = of_device(GRAPH_RECOMPUTE); kind == Kind::emit && sent < 1000; ++sent) {
        kind = session.guard.from_client(again.data(), again.size()).kind;
        session.guard.from_client(again.data(), kind == Kind::emit ? again.size() : 0);
    }
    CHECK(kind == Kind::wait);
    CHECK(sent < 100);
}

}  // namespace

int main() {
    return check::run({
        TEST(a_graph_reaches_the_worker_with_its_own_addresses),
        TEST(the_summary_of_a_graph_counts_its_nodes_by_op),
        TEST(nothing_of_a_graph_is_forwarded_before_it_is_whole),
        TEST(a_graph_of_several_pieces_and_the_next_request_arrive_in_order),
        TEST(ops_with_a_function_pointer_are_never_forwarded),
        TEST(a_graph_of_an_unknown_op_is_refused),
        TEST(node_id_0_and_unknown_sources_are_refused),
        TEST(a_graph_that_refers_to_data_outside_every_buffer_is_refused),
        TEST(an_absolute_address_without_a_buffer_is_refused),
        TEST(a_graph_on_another_device_s_buffer_is_refused),
        TEST(a_graph_for_an_unknown_device_is_refused),
        TEST(a_graph_whose_counts_disagree_with_its_length_is_refused),
        TEST(a_graph_can_be_computed_again),
        TEST(a_recompute_without_a_graph_is_refused),
        TEST(a_device_recomputes_its_own_graph_only),
        TEST(a_recompute_after_a_buffer_of_the_graph_was_freed_is_refused),
        TEST(a_recompute_after_any_free_is_refused_until_the_next_graph),
        TEST(the_worker_is_busy_until_a_graph_is_computed),
        TEST(the_command_that_the_worker_is_at_is_the_first_that_it_has_not_answered),
        TEST(a_frame_is_begun_from_its_head_to_its_last_byte),
        TEST(the_guard_s_own_question_does_not_count_devices),
        TEST(a_client_need_not_wait_for_a_graph),
        TEST(a_client_that_only_sends_graphs_waits_for_the_worker_at_last),
    });
}
