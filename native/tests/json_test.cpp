// What is written is JSON whatever the text holds: escapes and commas come out right by construction.
#include "json.h"

#include "check.h"

namespace {

using rpcmesh::Json;
using rpcmesh::json_quoted;

void plain_text_stays_as_it_is() {
    CHECK_EQ(json_quoted(""), "\"\"");
    CHECK_EQ(json_quoted("rpcmesh/rpc/gpu-0 ~{}[]:,'"), "\"rpcmesh/rpc/gpu-0 ~{}[]:,'\"");
}

void quotes_and_backslashes_are_escaped() {
    CHECK_EQ(json_quoted("\""), R"("\"")");
    CHECK_EQ(json_quoted("\\"), R"("\\")");
    CHECK_EQ(json_quoted("C:\\\"x\""), R"("C:\\\"x\"")");
    CHECK_EQ(json_quoted("\\u0041"), R"("\\u0041")");
}

void control_bytes_are_escaped_and_nul_does_not_end_the_text() {
    CHECK_EQ(json_quoted("a\nb\tc\r"), R"("a\u000ab\u0009c\u000d")");
    CHECK_EQ(json_quoted(std::string_view("a\0b", 3)), R"("a\u0000b")");
    CHECK_EQ(json_quoted("\x1b[31m"), R"("\u001b[31m")");
    CHECK_EQ(json_quoted("\x7f"), R"("\u007f")");
}

void bytes_that_are_not_ascii_become_the_code_point_of_their_value() {
    CHECK_EQ(json_quoted("\x80"), R"("\u0080")");
    CHECK_EQ(json_quoted("\xff\xfe"), R"("\u00ff\u00fe")");
    CHECK_EQ(json_quoted("\xc3\xa9"), R"("\u00c3\u00a9")");
}

void every_byte_is_written_in_printable_ascii() {
    for (int byte = 0; byte < 256; ++byte) {
        const char        c      = static_cast<char>(byte);
        const std::string quoted = json_quoted(std::string_view(&c, 1));
        check::row               = "byte " + std::to_string(byte);
        CHECK(quoted.size() == 3 || (quoted.size() == 4 && quoted[1] == '\\') || (quoted.size() == 8 && quoted.substr(1, 4) == "\\u00"));
        for (const char written : quoted) {
            CHECK(written >= 0x20 && written < 0x7f);
        }
    }
}

void an_empty_object_and_an_empty_array() {
    CHECK_EQ(Json().open_object().close_object().text(), "{}");
    CHECK_EQ(Json().open_array().close_array().text(), "[]");
}

void commas_stand_between_and_nowhere_else() {
    Json json;
    json.open_object().field("a", uint64_t{ 1 }).field("b", "x").key("c").null().close_object();
    CHECK_EQ(json.text(), R"({"a":1,"b":"x","c":null})");
}

void elements_of_an_array_are_separated() {
    Json json;
    json.open_array().value("x").value(uint64_t{ 2 }).null().value(0.5).close_array();
    CHECK_EQ(json.text(), R"(["x",2,null,0.500])");
}

void what_comes_after_a_nested_value_is_separated() {
    Json json;
    json.open_object().key("list").open_array();
    json.open_object().field("n", uint64_t{ 1 }).close_object();
    json.open_object().key("deep").open_array().open_array().close_array().open_array().close_array().close_array().close_object();
    json.close_array().field("after", "x").key("empty").open_object().close_object().field("last", uint64_t{ 0 }).close_object();
    CHECK_EQ(json.text(), R"({"list":[{"n":1},{"deep":[[],[]]}],"after":"x","empty":{},"last":0})");
}

void keys_are_escaped_like_values() {
    CHECK_EQ(Json().open_object().field("a\"\n", "b").close_object().text(), R"({"a\"\u000a":"b"})");
}

void numbers_are_whole() {
    CHECK_EQ(Json().value(~uint64_t{ 0 }).text(), "18446744073709551615");
    CHECK_EQ(Json().value(0.0).text(), "0.000");
    CHECK_EQ(Json().value(86400.1234).text(), "86400.123");
}

}  // namespace

int main() {
    return check::run({
        TEST(plain_text_stays_as_it_is),
        TEST(quotes_and_backslashes_are_escaped),
        TEST(control_bytes_are_escaped_and_nul_does_not_end_the_text),
        TEST(bytes_that_are_not_ascii_become_the_code_point_of_their_value),
        TEST(every_byte_is_written_in_printable_ascii),
        TEST(an_empty_object_and_an_empty_array),
        TEST(commas_stand_between_and_nowhere_else),
        TEST(elements_of_an_array_are_separated),
        TEST(what_comes_after_a_nested_value_is_separated),
        TEST(keys_are_escaped_like_values),
        TEST(numbers_are_whole),
    });
}
