// trainer_log.jsonl, as a resumed run finds it: what is kept is kept again.
#include <iterator>

#include "runtime/train/metrics.h"
#include "tests/fuzz/fuzz_folder.h"

namespace {

std::string kept() {
  std::ifstream stream("log.jsonl");
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace sluice;
  static const fuzz::FuzzFolder folder;
  fuzz::FuzzFolder::write("log.jsonl", fuzz::text_of(data, bytes));
  if (!fuzz::accepts([] { train::StepLog("log.jsonl", 5); })) return 0;
  const std::string once = kept();
  train::StepLog("log.jsonl", 5);
  SLUICE_CHECK(kept() == once, "a second resume keeps something else");
  return 0;
}
