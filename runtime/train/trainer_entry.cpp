// What the small binary finds when it opens this library.
#include <malloc.h>

#include "runtime/train/entry.h"
#include "runtime/train/generate.h"
#include "runtime/train/gpu_library.h"
#include "runtime/train/machine_cache.h"
#include "runtime/train/merge.h"
#include "runtime/train/profile.h"
#include "runtime/train/trainer.h"

namespace {

std::string open_gpu() {
  using namespace sluice::train;
  return gpu_for(DeviceKind::cuda, "sluice doctor")->name();
}

}  // namespace

extern "C" const sluice::train::EntryTable* sluice_runtime_entry() {
  using namespace sluice::train;
  // LibTorch frees and takes the same few large blocks in every layer: keep them instead of returning them to the
  // system, which would hand them out again page by page, cleared.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  static constexpr EntryTable table = {SLUICE_VERSION, sizeof(Config), run_training, print_plan, generate_text,
                                       run_probe,      run_merge,      open_gpu,     run_profile};
  return &table;
}
