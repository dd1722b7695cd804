// Token files: what opens can be read row by row, and holds what its header says.
#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "runtime/train/data.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t bytes, size_t bytes_max);

namespace sluice::fuzz {
namespace {

constexpr const char* kFile = "train.tokens";
constexpr size_t kHeaderBytes = 128;
constexpr size_t kRowsAt = 16, kTokensAt = 24, kDocumentsAt = 32;

void read_all(const train::TokenDataset& dataset) {
  int64_t tokens = 0;
  for (int64_t row = 0; row < dataset.rows(); ++row) {
    SLUICE_CHECK(dataset.row_tokens(row) <= dataset.longest_row(), "a row longer than the longest");
    tokens += dataset.row_tokens(row);
    accepts([&] {
      const train::MicroBatchData batch = dataset.read({{row}});
      SLUICE_CHECK(static_cast<int64_t>(batch.token_ids.size()) == dataset.row_tokens(row) &&
                       batch.labels.size() == batch.token_ids.size() &&
                       batch.document_starts.back() == static_cast<int32_t>(batch.token_ids.size()),
                   "a row of another length");
    });
  }
  SLUICE_CHECK(tokens == dataset.tokens() && dataset.tokens_max(dataset.rows()) == tokens, "rows that are not all");
  SLUICE_CHECK(dataset.supervised_tokens() >= 0 && dataset.supervised_tokens() <= tokens,
               "more is trained on than there is");
}

}  // namespace
}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace sluice;
  static const fuzz::FuzzFolder folder;
  fuzz::FuzzFolder::write(fuzz::kFile, fuzz::text_of(data, bytes));
  fuzz::accepts([] { fuzz::read_all(train::TokenDataset(fuzz::kFile)); });
  return 0;
}

// Most mutations would stop at a size that no longer fits: three of four get the size and the end mark of their header.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t bytes, size_t bytes_max, unsigned seed) {
  using namespace sluice::fuzz;
  bytes = LLVMFuzzerMutate(data, bytes, bytes_max);
  if (std::minstd_rand(seed)() % 4 == 0 || bytes < kHeaderBytes) return bytes;
  uint64_t counts[3];
  std::memcpy(counts, data + kRowsAt, sizeof counts);
  for (uint64_t& count : counts) count %= 32;
  std::memcpy(data + kRowsAt, counts, sizeof counts);
  static_assert(kTokensAt == kRowsAt + 8 && kDocumentsAt == kTokensAt + 8);
  const size_t wanted = kHeaderBytes + 8 * (counts[0] + counts[2] + 2) + 8 * counts[1] + 8;
  if (wanted > bytes_max) return bytes;
  if (wanted > bytes) std::memset(data + bytes, 0, wanted - bytes);
  std::memcpy(data + wanted - 8, "KTECIULS", 8);
  return wanted;
}
