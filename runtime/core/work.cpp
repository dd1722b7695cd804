#include "runtime/core/work.h"

namespace sluice {

WorkObserver& nobody() {
  static WorkObserver none;  // has no state
  return none;
}

}  // namespace sluice
