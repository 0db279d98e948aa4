#include "hello.h"

namespace rpcmesh {

Reason look_for_hello(guard::Guard & guard, Early & early) {
    while (!guard.greeted()) {
        const guard::Step step = guard.from_client(early.bytes.data() + early.passed, early.bytes.size() - early.passed);
        if (step.kind == guard::Step::Kind::need_more) {
            return Reason::none;
        }
        if (step.kind != guard::Step::Kind::pass) {
            return Reason::hello_invalid;
        }
        early.passed += step.size;
    }
    return Reason::none;
}

}  // namespace rpcmesh
