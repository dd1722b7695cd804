// A study's YAML over a job that is whole: each cell that it makes is a job too.
#include "runtime/train/config.h"
#include "runtime/train/study.h"
#include "tests/fuzz/fuzz_folder.h"

namespace sluice::fuzz {
namespace {

class StudyFolder : public FuzzFolder {
 public:
  StudyFolder() {
    write("model/tokenizer_config.json", R"({"eos_token": "</s>", "pad_token": {"content": "<pad>"}})");
    write("data.jsonl", "{}\n");
    write("job.yaml",
          "base_model: model\ndatasets: [{path: data.jsonl, type: alpaca}]\noutput_dir: out\nlearning_rate: 1e-4\n"
          "bf16: false\n");
  }
};

void walk(const train::Study& study) {
  SLUICE_CHECK(!study.cells.empty() && study.steps > 0, "a study of nothing");
  for (const train::StudyCell& cell : study.cells) {
    SLUICE_CHECK(!cell.labels.empty(), "a cell of no axis");
    train::load_config(study.base, cell.overrides());
  }
  for (const train::PublishedFigure& figure : study.published)
    SLUICE_CHECK(!figure.what.empty() && !figure.source.empty(), "a figure of nobody");
}

}  // namespace
}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace sluice;
  static const fuzz::StudyFolder folder;
  fuzz::StudyFolder::write("study.yaml", fuzz::text_of(data, bytes));
  std::optional<train::Study> study;
  if (fuzz::accepts([&] { study = train::read_study("study.yaml", {}); })) fuzz::walk(*study);
  return 0;
}
