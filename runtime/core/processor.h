// The processor of this machine, by the name that it gives itself.
#pragma once

#include <string>

namespace sluice {

// "AMD EPYC 9654 96-Core Processor".
std::string processor_name();

}  // namespace sluice
