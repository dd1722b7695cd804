// How many files this process may have open.
#pragma once

#include <cstdint>

namespace sluice::train {

// Makes sure that `more` files can be opened beside those that are: raises the soft limit towards the hard one and says
// so. Throws SetupError when that is not enough.
void allow_open_files(int64_t more);

}  // namespace sluice::train
