// lift-calibrate plan: what other budgets of a calibrated file would be like, without calibrating.
#pragma once

namespace lift {

// argv[0] is "plan". Prints its own errors; returns the exit code (0 done, 2 wrong input).
int PlanMain(int argc, char** argv);

}  // namespace lift
