// A machine as a table, for people at a terminal.
#pragma once

#include <string>

#include "runtime/plan/machine.h"

namespace sluice::train {

std::string machine_summary(const plan::Machine& machine);

}  // namespace sluice::train
