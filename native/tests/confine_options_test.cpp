// The launcher's command line gives every value it names, or one line that says what is wrong with it.
#include "confine/options.h"

#include <vector>

#include "check.h"

namespace {

using rpcmesh::confine::Options;
using rpcmesh::confine::parse_options;
using Arguments = std::vector<std::string>;

const Arguments least = { "--scratch", "/run/w0", "--build", "/bin" };
const Arguments start = { "--", "/worker", "-H", "/w0.sock" };

Arguments operator+(Arguments left, const Arguments & right) {
    left.insert(left.end(), right.begin(), right.end());
    return left;
}

// The error, or "" if the arguments are right.
std::string parse(const Arguments & arguments, Options & options) {
    std::vector<const char *> argv = { "rpcmesh-confine" };
    for (const std::string & argument : arguments) {
        argv.push_back(argument.c_str());
    }
    std::string error;
    const bool  right = parse_options(static_cast<int>(argv.size()), argv.data(), options, error);
    CHECK(right == error.empty());
    CHECK(error.find('\n') == std::string::npos);
    return error;
}

void every_option_is_taken() {
    const Arguments more = { "--read",  "/usr/lib", "--read", "/lib", "--write",      "/t",   "--device", "/dev/null", "--user",   "65534:65533",
                             "--group", "44",       "--group", "45",  "--memory-mib", "4096", "--files",  "64",        "--file-mib", "0",
                             "--require" };
    Options options;
    CHECK_EQ(parse(least + more + start, options), "");
    CHECK_EQ(options.scratch, "/run/w0");
    CHECK_EQ(options.build, "/bin");
    CHECK(options.read == (Arguments{ "/usr/lib", "/lib" }));
    CHECK(options.write == Arguments{ "/t" });
    CHECK(options.device == Arguments{ "/dev/null" });
    CHECK(options.user && options.user->uid == 65534 && options.user->gid == 65533);
    CHECK(options.user && options.user->groups == (std::vector<gid_t>{ 44, 45 }));
    CHECK(options.memory_mib == 4096 && options.files == 64 && options.file_mib == 0);
    CHECK(options.require);
    CHECK(options.worker == (Arguments{ "/worker", "-H", "/w0.sock" }));
}

void what_is_not_given_is_left_as_it_is() {
    Options options;
    CHECK_EQ(parse(least + start, options), "");
    CHECK(!options.user && !options.memory_mib && !options.files && !options.file_mib);
    CHECK(!options.require && options.device.empty());
}

// Whatever the worker is told, none of it is for the launcher.
void what_comes_after_the_dashes_is_the_workers() {
    Options options;
    CHECK_EQ(parse(least + Arguments{ "--", "/worker", "--require", "--", "--user", "1:1" }, options), "");
    CHECK(!options.require && !options.user);
    CHECK_EQ(options.worker.size(), 5U);
}

void what_is_wrong_is_said() {
    const std::string no_user   = "--user must be UID:GID, and neither of them 0";
    const std::string no_group  = "--group must be a number above 0, after --user";
    const std::string no_worker = "after -- must come the worker's absolute path";
    const std::string no_files  = "--files must be a number from 16 to 1048576";
    struct Row {
        Arguments   arguments;
        std::string error;
    };
    const Row rows[] = {
        { {}, "--scratch is required" },
        { Arguments{ "--scratch", "/s" } + start, "--build is required" },
        { Arguments{ "--scratch", "", "--build", "/b" } + start, "--scratch is required" },
        { least, no_worker },
        { least + Arguments{ "--" }, no_worker },
        { least + Arguments{ "--", "worker" }, no_worker },
        { least + Arguments{ "--", "" }, no_worker },
        { least + Arguments{ "--read" }, "--read needs a value" },
        { least + Arguments{ "--typo", "x" } + start, "unknown option --typo" },
        { least + Arguments{ "--user", "0:5" } + start, no_user },
        { least + Arguments{ "--user", "5:0" } + start, no_user },
        { least + Arguments{ "--user", "5" } + start, no_user },
        { least + Arguments{ "--user", "-1:5" } + start, no_user },
        { least + Arguments{ "--user", "5:+5" } + start, no_user },
        { least + Arguments{ "--user", "4294967295:5" } + start, no_user },
        { least + Arguments{ "--user", "nobody:nogroup" } + start, no_user },
        { least + Arguments{ "--group", "5" } + start, no_group },
        { least + Arguments{ "--user", "5:5", "--group", "0" } + start, no_group },
        { least + Arguments{ "--files", "15" } + start, no_files },
        { least + Arguments{ "--files", "1048577" } + start, no_files },
        { least + Arguments{ "--files", " 64" } + start, no_files },
        { least + Arguments{ "--files", "64k" } + start, no_files },
        { least + Arguments{ "--files", "" } + start, no_files },
        { least + Arguments{ "--files", "99999999999999999999" } + start, no_files },
    };
    for (const Row & row : rows) {
        Options options;
        check::row = row.error;
        CHECK_EQ(parse(row.arguments, options), row.error);
    }
}

}  // namespace

int main() {
    return check::run({
        TEST(every_option_is_taken),
        TEST(what_is_not_given_is_left_as_it_is),
        TEST(what_comes_after_the_dashes_is_the_workers),
        TEST(what_is_wrong_is_said),
    });
}
