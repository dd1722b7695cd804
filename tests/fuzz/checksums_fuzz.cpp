// checksums.json of a checkpoint: what is accepted names files of its folder, covers each once, and is read back.
#include <filesystem>

#include "runtime/train/checksums.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace sluice;
  static const fuzz::FuzzFolder folder;
  fuzz::FuzzFolder::write("checksums.json", fuzz::text_of(data, bytes));
  fuzz::FuzzFolder::write("checkpoint/weights", "0123456789abcdef");
  train::Checksums sums;
  if (!fuzz::accepts([&] { sums = train::read_checksums("checksums.json"); })) return 0;
  for (const auto& [name, file] : sums) {
    const std::filesystem::path inside = ("checkpoint" / std::filesystem::path(name)).lexically_normal();
    SLUICE_CHECK(*inside.begin() == "checkpoint", "a file outside the folder: " + name);
    int64_t covered = 0;
    for (const train::FilePart& part : file.parts) covered += part.bytes;
    SLUICE_CHECK(covered == file.bytes, "parts that are not the file");
  }
  const std::string written = train::to_json(sums);
  fuzz::FuzzFolder::write("checksums.json", written);
  SLUICE_CHECK(train::to_json(train::read_checksums("checksums.json")) == written, "sums that read otherwise");
  (void)train::find_damage("checkpoint", sums);
  return 0;
}
