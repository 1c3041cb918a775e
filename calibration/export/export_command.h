// lift-calibrate export: the ways out of a lifted file.
#pragma once

namespace lift {

// argv[0] is "export". Prints its own errors; returns the exit code (0 done, 1 failed, 2 wrong
// input).
int ExportMain(int argc, char** argv);

}  // namespace lift
