// What the small binary finds when it opens this library.
#include "runtime/train/entry.h"
#include "runtime/train/generate.h"
#include "runtime/train/trainer.h"

extern "C" const sluice::train::EntryTable* sluice_runtime_entry() {
  using namespace sluice::train;
  static constexpr EntryTable table = {SLUICE_VERSION, sizeof(Config), run_training, print_plan, generate_text};
  return &table;
}
