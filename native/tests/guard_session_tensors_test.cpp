// What reads and writes tensors: nothing outside the tensor, the tensor inside its buffer, the worker's addresses in place
// of the client's, and data passing where it lies.
#include "guard_session.h"

namespace {

using namespace frames;

constexpr uint64_t END = Session::BUFFER_BYTES;

// Every request that names one tensor; the tensor stands at the payload's begin but for GET_ALLOC_SIZE.
struct Row {
    uint8_t command;
    Bytes (*request)(const Bytes & where);
};

constexpr Row rows[] = {
    { SET_TENSOR, [](const Bytes & where) { return set(where, 0, Bytes(4)); } },
    { SET_TENSOR_HASH, [](const Bytes & where) { return set_hash(where, 0, 0x1234); } },
    { GET_TENSOR, [](const Bytes & where) { return get(where, 0, 4); } },
    { MEMSET_TENSOR, [](const Bytes & where) { return fill(where, 0, 4, 7); } },
    { COPY_TENSOR, [](const Bytes & where) { return copy(where, where); } },
    { INIT_TENSOR, [](const Bytes & where) { return init(where); } },
    { GET_ALLOC_SIZE, [](const Bytes & where) { return alloc_size(where); } },
};

// Of a tensor with one thing wrong, by each request.
void check_refused(const char * what, void (*spoil)(Wanted & wanted), Refusal expected) {
    for (const Row & row : rows) {
        Session session;
        Wanted  wanted = session.floats(1024);
        spoil(wanted);
        check::row = std::string(command_of(row.command).name) + " with " + what;
        CHECK_EQ(std::string(name_of(session.refused(row.request(tensor(wanted))))), name_of(expected));
    }
}

void a_tensor_in_its_buffer_passes_with_the_worker_s_numbers() {
    for (const Row & row : rows) {
        Session     session;
        const Bytes where = tensor(session.floats(1024));
        check::row        = command_of(row.command).name;
        CHECK(session.refused(row.request(where)) == Refusal::none);
        if (row.command == SET_TENSOR_HASH) {
            continue;
        }
        CHECK_EQ(int(session.worker.last().command), int(row.command));
        const uint8_t * placed = session.worker.last().payload.data() + (row.command == GET_ALLOC_SIZE ? 4 : 0);
        CHECK_EQ(load64(placed + TENSOR_BUFFER_OFFSET), session.real_handle());
        CHECK_EQ(load64(placed + TENSOR_DATA_OFFSET), session.real().base + 1024);
    }
}

void an_unknown_buffer_is_refused() {
    check_refused("buffer 2", [](Wanted & wanted) { wanted.buffer = 2; }, Refusal::buffer_unknown);
}

void an_address_without_a_buffer_is_refused() {
    check_refused("buffer 0", [](Wanted & wanted) { wanted.buffer = 0; }, Refusal::buffer_unknown);
}

void data_outside_the_buffer_is_refused() {
    check_refused("data before", [](Wanted & wanted) { wanted.data -= 1025; }, Refusal::tensor_bounds);
    check_refused("data behind", [](Wanted & wanted) { wanted.data += END; }, Refusal::tensor_bounds);
    check_refused("data 0", [](Wanted & wanted) { wanted.data = 0; }, Refusal::tensor_bounds);
    check_refused("data at the top", [](Wanted & wanted) { wanted.data = ~uint64_t(0); }, Refusal::tensor_bounds);
}

void a_tensor_larger_than_its_buffer_is_refused() {
    check_refused("2 MiB", [](Wanted & wanted) { wanted.ne = { { 512 * 1024, 1, 1, 1 } }; }, Refusal::tensor_bounds);
}

void strides_that_wrap_nbytes_to_a_small_number_are_refused() {
    // So many rows that 64 bits do not hold their bytes are too many elements; fewer are outside the buffer.
    check_refused("strides that wrap", [](Wanted & wanted) {
        wanted.ne = { { 1, 1u << 31, 1u << 31, 3 } };
        wanted.nb = { { 4, 0xffffffff, 0xffffffff, 0xffffffff } };
    }, Refusal::tensor_shape);
    check_refused("the widest strides", [](Wanted & wanted) {
        wanted.ne = { { 1, 0x7fffffff, 1, 1 } };
        wanted.nb = { { 4, 0xffffffff, 4, 4 } };
    }, Refusal::tensor_bounds);
}

void a_product_of_2_to_63_elements_is_refused() {
    check_refused("2^63 elements", [](Wanted & wanted) { wanted.ne = { { 1u << 31, 1u << 31, 2, 1 } }; }, Refusal::tensor_shape);
}

void an_unknown_type_is_refused() {
    check_refused("type 43", [](Wanted & wanted) { wanted.type = 43; }, Refusal::tensor_type);
    check_refused("type 4", [](Wanted & wanted) { wanted.type = 4; }, Refusal::tensor_type);
    check_refused("type 2^32 - 1", [](Wanted & wanted) { wanted.type = 0xffffffff; }, Refusal::tensor_type);
}

void a_row_that_is_not_whole_blocks_is_refused() {
    check_refused("33 elements of q4_1", [](Wanted & wanted) {
        wanted.type = Q4_1;
        wanted.ne   = { { 33, 1, 1, 1 } };
    }, Refusal::tensor_shape);
}

void offset_and_size_stay_in_the_tensor() {
    struct Part {
        uint64_t offset;
        uint64_t size;
        bool     inside;
    };
    constexpr Part parts[] = {
        { 0, 256, true },  { 255, 1, true },  { 0, 0, true },           { 0, 257, false },           { 256, 1, false },
        { 1, 256, false }, { 257, 0, false }, { ~uint64_t(0), 2, false }, { 2, ~uint64_t(0), false }, { uint64_t(1) << 63, uint64_t(1) << 63, false },
    };
    for (const Part & part : parts) {
        check::row              = "offset " + std::to_string(part.offset) + " size " + std::to_string(part.size);
        const Refusal  expected = part.inside ? Refusal::none : Refusal::tensor_bounds;
        const Bytes    where    = tensor(Session().floats(1024));
        CHECK(Session().refused(get(where, part.offset, part.size)) == expected);
        CHECK(Session().refused(fill(where, part.offset, part.size, 1)) == expected);
        if (part.size <= 512) {
            CHECK(Session().refused(set(where, part.offset, Bytes(part.size))) == expected);
        }
    }
}

void set_is_refused_before_any_of_its_data_came() {
    Session     session;
    const Bytes whole = set(tensor(session.floats()), 0, Bytes(257));
    CHECK(session.refused(Bytes(whole.begin(), whole.end() - 257)) == Refusal::tensor_bounds);
}

void an_offset_that_wraps_around_is_refused_in_a_hash_too() {
    CHECK(Session().refused(set_hash(tensor(Session().floats()), 256, 0)) == Refusal::tensor_bounds);
    CHECK(Session().refused(set_hash(tensor(Session().floats()), ~uint64_t(0), 0)) == Refusal::tensor_bounds);
}

void set_s_data_passes_unchanged_and_its_cache_flag_is_cleared() {
    Session session;
    Bytes   data(256);
    for (size_t i = 0; i < data.size(); ++i) {
        data[i] = static_cast<uint8_t>(i * 7);
    }
    session.send(set(tensor(session.floats()), 0, data, 1));
    CHECK_EQ(int(session.worker.last().payload[TENSOR_BYTES]), 0);
    CHECK_EQ(session.worker.set_bytes, uint64_t(256));
    CHECK(Bytes(session.to_worker.end() - 256, session.to_worker.end()) == data);
    CHECK_EQ(session.complaint(), "");
}

void a_hash_is_answered_as_not_cached_and_never_forwarded() {
    Session      session;
    const size_t before = session.to_worker.size();
    CHECK(session.ask(set_hash(tensor(session.floats()), 0, 0xabcdef)) == reply({ 0 }));
    CHECK_EQ(session.to_worker.size(), before);
}

void get_of_a_huge_size_is_refused() {
    Limits limits;
    limits.read_bytes = 255;
    Session     session(limits);
    const Bytes where = tensor(session.floats());
    CHECK(session.refused(get(where, 0, 255)) == Refusal::none);
    CHECK(session.refused(get(where, 0, 256)) == Refusal::tensor_bounds);
}

void get_s_reply_has_exactly_the_bytes_asked_for() {
    Session session;
    CHECK(session.ask(get(tensor(session.floats()), 16, 100)) == reply(Bytes(100, 0x5a)));
    CHECK(session.ask(get(tensor(session.floats()), 16, 0)) == reply({}));
    Bytes request = get(tensor(session.floats()), 0, 100);
    Bytes longer  = number(101, 8);
    CHECK(session.guard.from_client(request.data(), request.size()).kind == Kind::pass);
    CHECK(session.guard.from_worker(longer.data(), longer.size()).kind == Kind::refuse);
    CHECK(session.refusal() == Refusal::reply_invalid);
}

void copy_needs_room_in_the_target_tensor() {
    Session session;
    Wanted  large = session.floats();
    large.ne[1]   = 2;
    const Bytes small = tensor(session.floats(4096));
    CHECK(session.refused(copy(small, tensor(large))) == Refusal::none);
    CHECK(session.refused(copy(tensor(large), small)) == Refusal::tensor_bounds);
}

void a_copy_that_overlaps_itself_is_refused() {
    Session session;
    CHECK(session.refused(copy(tensor(session.floats()), tensor(session.floats(256)))) == Refusal::none);
    CHECK(session.refused(copy(tensor(session.floats()), tensor(session.floats(252)))) == Refusal::tensor_bounds);
}

void copy_checks_its_target_as_its_source() {
    Session session;
    Wanted  lost = session.floats();
    lost.buffer  = 9;
    CHECK(session.refused(copy(tensor(session.floats()), tensor(lost))) == Refusal::buffer_unknown);
}

// Padding to 512 elements: 480 of them are missing behind a row of 32, in blocks of 32 that have 20 bytes.
void init_that_would_pad_past_the_buffer_s_end_is_not_forwarded() {
    for (const bool room : { true, false }) {
        Session session;
        Wanted  weights = session.floats(END - 20 - 15 * 20 + (room ? 0 : 1));
        weights.type    = Q4_1;
        weights.ne      = { { 32, 1, 1, 1 } };
        CHECK(session.refused(init(tensor(weights))) == Refusal::none);
        CHECK_EQ(session.worker.count(INIT_TENSOR), size_t(room ? 1 : 0));
        CHECK_EQ(session.held(), size_t(0));
    }
}

void init_does_not_tell_the_worker_an_op() {
    Session session;
    Wanted  weights = session.floats();
    weights.op      = FLASH_ATTN_EXT;
    CHECK(session.refused(init(tensor(weights))) == Refusal::none);
    CHECK_EQ(load32(&session.worker.last().payload[52]), 0u);
}

void quantised_blocks_that_do_not_lie_side_by_side_are_refused() {
    Wanted weights = Session().floats();
    weights.type   = Q4_1;
    weights.ne     = { { 32, 1, 1, 1 } };
    weights.nb     = { { 40, 40, 40, 40 } };
    CHECK(Session().refused(init(tensor(weights))) == Refusal::tensor_shape);
    CHECK(Session().refused(alloc_size(tensor(weights))) == Refusal::tensor_shape);
}

void the_size_of_a_tensor_without_a_place_can_be_asked() {
    Session session;
    CHECK(session.refused(alloc_size(tensor(Wanted{}))) == Refusal::none);
    CHECK_EQ(session.worker.count(GET_ALLOC_SIZE), size_t(1));
    CHECK_EQ(load64(&session.to_client[session.to_client.size() - 8]), uint64_t(256));
}

void the_size_of_an_op_with_missing_sources_is_refused() {
    Wanted attention;
    attention.op = FLASH_ATTN_EXT;
    CHECK_REFUSED(alloc_size(tensor(attention)), op_sources);
}

// As the last layer's product is, in a graph that a real client measures without outputs.
void the_size_of_an_empty_tensor_is_asked_without_its_op() {
    Session session;
    Wanted  product;
    product.op = FLASH_ATTN_EXT;
    product.ne = { { 64, 0, 1, 1 } };
    CHECK(session.refused(alloc_size(tensor(product))) == Refusal::none);
    CHECK_EQ(load32(&session.worker.last().payload[4 + 52]), 0u);
}

void a_source_without_an_id_is_wiped() {
    Session session;
    Wanted  junk = session.floats();
    junk.id      = 0;
    junk.buffer  = 77;
    junk.type    = 99;
    CHECK(session.refused(alloc_size(tensor(Wanted{}), { tensor(junk) })) == Refusal::none);
    CHECK(Bytes(session.worker.last().payload.begin() + 4 + TENSOR_BYTES, session.worker.last().payload.end()) == Bytes(10 * TENSOR_BYTES));
}

void a_source_in_an_unknown_buffer_is_refused() {
    Wanted lost = Session().floats();
    lost.buffer = 77;
    CHECK_REFUSED(alloc_size(tensor(Wanted{}), { tensor(lost) }), buffer_unknown);
}

}  // namespace

int main() {
    return check::run({
        TEST(a_tensor_in_its_buffer_passes_with_the_worker_s_numbers),
        TEST(an_unknown_buffer_is_refused),
        TEST(an_address_without_a_buffer_is_refused),
        TEST(data_outside_the_buffer_is_refused),
        TEST(a_tensor_larger_than_its_buffer_is_refused),
        TEST(strides_that_wrap_nbytes_to_a_small_number_are_refused),
        TEST(a_product_of_2_to_63_elements_is_refused),
        TEST(an_unknown_type_is_refused),
        TEST(a_row_that_is_not_whole_blocks_is_refused),
        TEST(offset_and_size_stay_in_the_tensor),
        TEST(set_is_refused_before_any_of_its_data_came),
        TEST(an_offset_that_wraps_around_is_refused_in_a_hash_too),
        TEST(set_s_data_passes_unchanged_and_its_cache_flag_is_cleared),
        TEST(a_hash_is_answered_as_not_cached_and_never_forwarded),
        TEST(get_of_a_huge_size_is_refused),
        TEST(get_s_reply_has_exactly_the_bytes_asked_for),
        TEST(copy_needs_room_in_the_target_tensor),
        TEST(a_copy_that_overlaps_itself_is_refused),
        TEST(copy_checks_its_target_as_its_source),
        TEST(init_that_would_pad_past_the_buffer_s_end_is_not_forwarded),
        TEST(init_does_not_tell_the_worker_an_op),
        TEST(quantised_blocks_that_do_not_lie_side_by_side_are_refused),
        TEST(the_size_of_a_tensor_without_a_place_can_be_asked),
        TEST(the_size_of_an_op_with_missing_sources_is_refused),
        TEST(the_size_of_an_empty_tensor_is_asked_without_its_op),
        TEST(a_source_without_an_id_is_wiped),
        TEST(a_source_in_an_unknown_buffer_is_refused),
    });
}
