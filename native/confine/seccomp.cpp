#include "confine/seccomp.h"

#ifdef __linux__

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "confine/calls.h"

namespace rpcmesh::confine {

namespace {

#if defined(__x86_64__)
constexpr uint32_t ARCHITECTURE = AUDIT_ARCH_X86_64;
// Calls of the x32 ABI bear this bit, and are other calls than their numbers say.
constexpr uint32_t FOREIGN = 0x40000000;
#elif defined(__aarch64__)
constexpr uint32_t ARCHITECTURE = AUDIT_ARCH_AARCH64;
constexpr uint32_t FOREIGN      = 0x80000000;
#else
#error "the table of system calls was written for x86-64 and aarch64"
#endif

constexpr uint32_t ALLOW = SECCOMP_RET_ALLOW;

constexpr uint32_t refuse(int error) {
    return SECCOMP_RET_ERRNO | static_cast<uint32_t>(error);
}

// A filter in the making. Jumps are short: each call's part ends with a verdict.
class Program {
public:
    void load(size_t offset) { add(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)); }
    // The low half of an argument, on a machine that puts it first.
    void load_argument(int number) { load(offsetof(seccomp_data, args) + 8 * static_cast<size_t>(number)); }
    void keep_bits(uint32_t mask) { add(BPF_ALU | BPF_AND | BPF_K, mask); }
    // The next `length` instructions are for `value`, or for others than it.
    void unless_equal_skip(uint32_t value, size_t length) { add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, length); }
    void if_equal_skip(uint32_t value, size_t length) { add(BPF_JMP | BPF_JEQ | BPF_K, value, length, 0); }
    void unless_above_skip(uint32_t value, size_t length) { add(BPF_JMP | BPF_JGT | BPF_K, value, 0, length); }
    void give(uint32_t verdict) { add(BPF_RET | BPF_K, verdict); }
    void append(const Program & other) { code_.insert(code_.end(), other.code_.begin(), other.code_.end()); }

    size_t                           size() const { return code_.size(); }
    const std::vector<sock_filter> & code() const { return code_; }

private:
    void add(int what, uint32_t value, size_t if_true = 0, size_t if_false = 0) {
        code_.push_back({ static_cast<uint16_t>(what), static_cast<uint8_t>(if_true), static_cast<uint8_t>(if_false), value });
    }

    std::vector<sock_filter> code_;
};

// Falls through if the condition holds.
Program check(const Condition & condition) {
    Program part;
    part.load_argument(condition.argument);
    part.keep_bits(condition.mask);
    for (uint32_t i = 0; i < condition.count; ++i) {
        // Over the values that are left, and the refusal.
        part.if_equal_skip(condition.values[i], condition.count - i);
    }
    part.give(refuse(EPERM));
    return part;
}

void allow_when(Program & program, uint32_t number, const Condition & first, const Condition & second = { 0, 0, nullptr, 0 }) {
    Program part = check(first);
    if (second.count > 0) {
        part.append(check(second));
    }
    part.give(ALLOW);
    program.unless_equal_skip(number, part.size());
    program.append(part);
}

void give_for(Program & program, uint32_t number, uint32_t verdict) {
    program.unless_equal_skip(number, 1);
    program.give(verdict);
}

}  // namespace

std::vector<sock_filter> call_filter(pid_t self, bool devices) {
    Program program;
    program.load(offsetof(seccomp_data, arch));
    program.if_equal_skip(ARCHITECTURE, 1);
    program.give(SECCOMP_RET_KILL_PROCESS);
    program.load(offsetof(seccomp_data, nr));
    program.unless_above_skip(FOREIGN - 1, 1);
    program.give(SECCOMP_RET_KILL_PROCESS);
    for (const Call & call : calls) {
        if (call.who == Who::everybody || devices) {
            give_for(program, call.number, ALLOW);
        }
    }
    for (const Narrow & call : narrow) {
        allow_when(program, call.number, call.first, call.second);
    }
    const uint32_t itself[] = { static_cast<uint32_t>(self) };
    const uint32_t own[]    = { 0, static_cast<uint32_t>(self) };
    allow_when(program, SYS_kill, is(0, itself));
    allow_when(program, SYS_tgkill, is(0, itself));
    allow_when(program, SYS_prlimit64, is(0, own));
    // A filter cannot follow clone3's pointer; without the call the C library makes threads by clone.
    give_for(program, CLONE3, refuse(ENOSYS));
    program.unless_above_skip(NEWEST, 1);
    program.give(refuse(ENOSYS));
    program.give(refuse(EPERM));
    return program.code();
}

std::string enforce(const std::vector<sock_filter> & filter) {
    const sock_fprog program = { static_cast<unsigned short>(filter.size()), const_cast<sock_filter *>(filter.data()) };
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        return std::string("seccomp: ") + std::strerror(errno);
    }
    return "";
}

}  // namespace rpcmesh::confine

#endif
