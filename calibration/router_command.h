// lift-calibrate router: trains the router of a calibrated file.
#pragma once

namespace lift {

// argv[0] is the command's name. Returns the process's exit code.
int RouterMain(int argc, char** argv);

}  // namespace lift
