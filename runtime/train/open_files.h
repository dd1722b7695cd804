// How many files this process may have open.
#pragma once

#include <cstdint>

namespace sluice::train {

struct OpenFiles {
  int64_t now = 0;             // open in this process
  int64_t soft = 0, hard = 0;  // `ulimit -n`, `ulimit -Hn`
  // How many this process would have open with `more`: those that are, and what a run opens beside.
  int64_t with(int64_t more) const;
};
OpenFiles open_files();

// Makes sure that `more` files can be opened beside those that are: raises the soft limit towards the hard one and says
// so. Throws SetupError when that is not enough.
void allow_open_files(int64_t more);

}  // namespace sluice::train
