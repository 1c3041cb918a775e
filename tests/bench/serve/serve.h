// The sub-command `serve` of lift-bench.
#pragma once

namespace lift::bench {

// `argv[0]` is "serve". The exit code: 0 done, 1 the work failed, 2 the command line is wrong.
int RunServe(int argc, char** argv);

}  // namespace lift::bench
