// The processor of this machine, and what of it is this process's.
#pragma once

#include <string>

namespace sluice {

// "AMD EPYC 9654 96-Core Processor".
std::string processor_name();
// Cores that the calling thread may run on, at least 1: a container or `taskset` may leave it fewer than there are.
int usable_cores();

}  // namespace sluice
