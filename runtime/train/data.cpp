#include "runtime/train/data.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <queue>
#include <string_view>

#include "runtime/core/result.h"

namespace sluice::train {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian and read in place");

constexpr char kMagic[] = "SLUICETK";
constexpr char kEndMagic[] = "KTECIULS";
constexpr int64_t kMagicBytes = 8;
constexpr int64_t kHeaderBytes = 128;
constexpr uint32_t kVersion = 1;
constexpr const char* kPrepareAgain =
    "remove its folder; the next `sluice preprocess` or `sluice train` writes it again";

// The header as it lies in the file.
struct Header {
  char magic[8];
  uint32_t version;
  uint32_t flags;
  uint64_t rows;
  uint64_t tokens;
  uint64_t documents;
  uint64_t vocabulary;
  uint64_t supervised_tokens;
  uint64_t longest_row;
  char content_hash[64];
};
static_assert(sizeof(Header) == kHeaderBytes);

// Keeps every sum of sizes below far from overflow.
constexpr uint64_t kCountMax = uint64_t{1} << 48;

int64_t document_starts_offset(const Header& header) {
  return kHeaderBytes + 8 * (static_cast<int64_t>(header.rows) + 1);
}
int64_t token_ids_offset(const Header& header) {
  return document_starts_offset(header) + 8 * (static_cast<int64_t>(header.documents) + 1);
}
int64_t labels_offset(const Header& header) {
  return token_ids_offset(header) + 4 * static_cast<int64_t>(header.tokens);
}
int64_t end_magic_offset(const Header& header) {
  return labels_offset(header) + 4 * static_cast<int64_t>(header.tokens);
}

std::string at_offset(const std::filesystem::path& file, int64_t offset) {
  return file.string() + ": offset " + std::to_string(offset) + ": ";
}

}  // namespace

TokenDataset::TokenDataset(const std::filesystem::path& file) : file_(file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw SetupError(file.string() + ": cannot be opened: " + std::strerror(errno), kPrepareAgain);
  struct stat status {};
  const bool known = ::fstat(descriptor, &status) == 0;
  if (known && status.st_size > 0) {
    void* data = ::mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_SHARED, descriptor, 0);
    if (data != MAP_FAILED) mapping_ = {static_cast<const std::byte*>(data), status.st_size};
  }
  const int error = errno;
  ::close(descriptor);
  if (known && status.st_size == 0) throw SetupError(file.string() + ": is empty, not a token file", kPrepareAgain);
  if (mapping_.data == nullptr)
    throw SetupError(file.string() + ": cannot be mapped: " + std::strerror(error), "use a local file system");
  try {
    read_header();
    check_tables();
  } catch (...) {
    ::munmap(const_cast<std::byte*>(mapping_.data), static_cast<size_t>(mapping_.bytes));
    throw;
  }
}

TokenDataset::~TokenDataset() { ::munmap(const_cast<std::byte*>(mapping_.data), static_cast<size_t>(mapping_.bytes)); }

void TokenDataset::refuse(int64_t offset, const std::string& what) const {
  throw SetupError(at_offset(file_, offset) + what, kPrepareAgain);
}

void TokenDataset::read_header() {
  Header header{};
  std::memcpy(&header, mapping_.data, static_cast<size_t>(std::min(mapping_.bytes, kHeaderBytes)));
  if (mapping_.bytes < kHeaderBytes || std::memcmp(header.magic, kMagic, kMagicBytes) != 0)
    refuse(0, "is not a token file: it does not begin with " + std::string(kMagic));
  if (header.version != kVersion)
    refuse(8, "version " + std::to_string(header.version) + ", this program reads version " + std::to_string(kVersion));
  if (header.flags != 0) refuse(12, "flags " + std::to_string(header.flags) + " are not known");
  const uint64_t counts[] = {header.rows, header.tokens, header.documents};
  for (size_t i = 0; i < std::size(counts); ++i)
    if (counts[i] == 0 || counts[i] > kCountMax)
      refuse(static_cast<int64_t>(16 + 8 * i), std::string(i == 0   ? "row"
                                                           : i == 1 ? "token"
                                                                    : "document") +
                                                   " count " + std::to_string(counts[i]));
  if (header.vocabulary == 0 || header.vocabulary > static_cast<uint64_t>(std::numeric_limits<int32_t>::max()))
    refuse(40, "vocabulary size " + std::to_string(header.vocabulary));
  const int64_t expected = end_magic_offset(header) + kMagicBytes;
  if (mapping_.bytes != expected)
    refuse(mapping_.bytes, "the file ends here, but its header announces " + std::to_string(expected) + " bytes");
  if (std::memcmp(mapping_.data + end_magic_offset(header), kEndMagic, kMagicBytes) != 0)
    refuse(end_magic_offset(header), "the end mark is missing: the file was not finished");

  if (header.supervised_tokens > header.tokens)
    refuse(48, "supervised token count " + std::to_string(header.supervised_tokens) + " of " +
                   std::to_string(header.tokens) + " tokens");
  // Checkpoints record it as text.
  const std::string_view hash(header.content_hash, sizeof header.content_hash);
  if (hash.find_first_not_of("0123456789abcdef") != std::string_view::npos)
    refuse(64, "the content hash is not 64 hex digits");

  rows_ = static_cast<int64_t>(header.rows);
  tokens_ = static_cast<int64_t>(header.tokens);
  documents_ = static_cast<int64_t>(header.documents);
  vocabulary_ = static_cast<int64_t>(header.vocabulary);
  supervised_tokens_ = static_cast<int64_t>(header.supervised_tokens);
  longest_row_ = static_cast<int64_t>(header.longest_row);
  content_hash_.assign(header.content_hash, sizeof header.content_hash);
  // A mapping is page-aligned and all parts before are multiples of 8 bytes, so every table is aligned.
  row_starts_ = reinterpret_cast<const uint64_t*>(mapping_.data + kHeaderBytes);
  document_starts_ = reinterpret_cast<const uint64_t*>(mapping_.data + document_starts_offset(header));
  token_ids_ = reinterpret_cast<const int32_t*>(mapping_.data + token_ids_offset(header));
  labels_ = reinterpret_cast<const int32_t*>(mapping_.data + labels_offset(header));
}

// Both tables ascend from 0 to the number of tokens, and every row begins with a document.
void TokenDataset::check_tables() {
  const auto check = [this](const uint64_t* starts, int64_t count, int64_t& longest, const char* what) {
    const int64_t table = reinterpret_cast<const std::byte*>(starts) - mapping_.data;
    if (starts[0] != 0) refuse(table, std::string("the first ") + what + " starts at " + std::to_string(starts[0]));
    uint64_t most = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (starts[i + 1] <= starts[i] || starts[i + 1] > static_cast<uint64_t>(tokens_))
        refuse(table + 8 * (i + 1), std::string(what) + " " + std::to_string(i) + " begins at token " +
                                        std::to_string(starts[i]) + " and ends at " + std::to_string(starts[i + 1]));
      most = std::max(most, starts[i + 1] - starts[i]);
    }
    if (starts[count] != static_cast<uint64_t>(tokens_))
      refuse(table + 8 * count, std::string("the last ") + what + " ends at token " + std::to_string(starts[count]) +
                                    " of " + std::to_string(tokens_));
    longest = static_cast<int64_t>(most);
  };
  int64_t longest_row = 0;
  check(row_starts_, rows_, longest_row, "row");
  check(document_starts_, documents_, longest_document_, "document");
  if (longest_row != longest_row_)
    refuse(56, "the longest row has " + std::to_string(longest_row) + " tokens, the header says " +
                   std::to_string(longest_row_));
  if (longest_row > std::numeric_limits<int32_t>::max()) refuse(56, "a row is longer than positions can count");
  for (int64_t row = 0, document = 0; row < rows_; ++row) {
    while (document_starts_[document] < row_starts_[row]) ++document;
    if (document_starts_[document] != row_starts_[row])
      refuse(kHeaderBytes + 8 * row, "row " + std::to_string(row) + " begins inside a document");
  }
}

int64_t TokenDataset::tokens_max(int64_t count) const {
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> longest;  // the shortest of them on top
  for (int64_t row = 0; row < rows_; ++row) {
    longest.push(row_tokens(row));
    if (static_cast<int64_t>(longest.size()) > count) longest.pop();
  }
  int64_t sum = 0;
  for (; !longest.empty(); longest.pop()) sum += longest.top();
  return sum;
}

MicroBatchData TokenDataset::read(std::span<const int64_t> rows) const {
  int64_t tokens = 0;
  for (const int64_t row : rows) {
    SLUICE_CHECK(row >= 0 && row < rows_, "no such row");
    tokens += row_tokens(row);
  }
  SLUICE_CHECK(tokens <= std::numeric_limits<int32_t>::max(), "a micro-batch larger than its offsets can count");
  MicroBatchData batch;
  batch.token_ids.reserve(static_cast<size_t>(tokens));
  batch.labels.reserve(static_cast<size_t>(tokens));
  batch.positions.reserve(static_cast<size_t>(tokens));
  batch.document_starts.push_back(0);
  for (const int64_t row : rows) {
    const uint64_t* document = std::lower_bound(document_starts_, document_starts_ + documents_, row_starts_[row]);
    for (; *document < row_starts_[row + 1]; ++document)
      append_document(static_cast<int64_t>(document[0]), static_cast<int64_t>(document[1]), batch);
  }
  return batch;
}

void TokenDataset::append_document(int64_t begin, int64_t end, MicroBatchData& batch) const {
  const auto wrong = [this](const int32_t* where, const char* what) {
    const int64_t offset = reinterpret_cast<const std::byte*>(where) - mapping_.data;
    throw RunError({ErrorCode::corrupt,
                    at_offset(file_, offset) + what + " " + std::to_string(*where) + " is outside the vocabulary of " +
                        std::to_string(vocabulary_),
                    kPrepareAgain});
  };
  for (int64_t i = begin; i < end; ++i) {
    const int32_t id = token_ids_[i];
    if (id < 0 || id >= vocabulary_) wrong(token_ids_ + i, "token");
    batch.token_ids.push_back(id);
    batch.positions.push_back(static_cast<int32_t>(i - begin));
    const int32_t label = i + 1 < end ? labels_[i + 1] : kMaskedLabel;
    if (label != kMaskedLabel) {
      if (label < 0 || label >= vocabulary_) wrong(labels_ + i + 1, "label");
      ++batch.supervised;
    }
    batch.labels.push_back(label);
  }
  batch.document_starts.push_back(static_cast<int32_t>(batch.token_ids.size()));
}

namespace {

// Finalizer of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

// A Feistel network permutes [0, 2^bits); walking its cycle from a row until the value is a row again permutes the
// rows (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). 2^bits < 2 * rows: two tries on average.
int64_t EpochOrder::at(int64_t epoch, int64_t position) const {
  SLUICE_CHECK(position >= 0 && position < rows_, "a position outside the epoch");
  if (order_ == RowOrder::sequential || rows_ == 1) return position;
  constexpr int kRounds = 8;
  const auto bits =
      static_cast<unsigned>(std::max(2, static_cast<int>(std::bit_width(static_cast<uint64_t>(rows_ - 1)))));
  const uint64_t key = mix(mix(seed_) + 0x9e3779b97f4a7c15u * (static_cast<uint64_t>(epoch) + 1));
  auto value = static_cast<uint64_t>(position);
  do {
    // The halves swap places, and with them an odd bit.
    unsigned low_bits = bits / 2;
    for (unsigned round = 0; round < kRounds; ++round) {
      const unsigned high_bits = bits - low_bits;
      const uint64_t low = value & ((uint64_t{1} << low_bits) - 1);
      const uint64_t high = value >> low_bits;
      const uint64_t noise = mix(key ^ mix((low << 8) | (round + 1))) & ((uint64_t{1} << high_bits) - 1);
      value = (low << high_bits) | (high ^ noise);
      low_bits = high_bits;
    }
  } while (value >= static_cast<uint64_t>(rows_));
  return static_cast<int64_t>(value);
}

namespace {

// More than any job takes; what is counted in steps is added and multiplied.
constexpr double kStepsMax = 1e15;

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

BatchPlanOptions options_of(const Config& config, int64_t rows) {
  BatchPlanOptions options;
  options.rows = rows;
  options.micro_batch_size = config.micro_batch_size;
  options.gradient_accumulation_steps = config.gradient_accumulation_steps;
  options.epochs = config.num_epochs.value_or(1);
  options.max_steps = config.max_steps;
  options.seed = config.seed;
  options.order = config.sequential_order ? RowOrder::sequential : RowOrder::shuffled;
  return options;
}

}  // namespace

BatchPlan::BatchPlan(const BatchPlanOptions& options)
    : options_(options), order_(options.rows, options.seed, options.order) {
  SLUICE_CHECK(options.rows > 0 && options.micro_batch_size > 0 && options.gradient_accumulation_steps > 0,
               "an empty batch plan");
  micro_batches_per_epoch_ = divide_up(options.rows, options.micro_batch_size);
  steps_per_epoch_ = divide_up(micro_batches_per_epoch_, options.gradient_accumulation_steps);
  const double steps_of_epochs = std::ceil(options.epochs * static_cast<double>(steps_per_epoch_));
  steps_total_ = options.max_steps.value_or(static_cast<int64_t>(std::min(steps_of_epochs, kStepsMax)));
}

BatchPlan::BatchPlan(const Config& config, int64_t rows) : BatchPlan(options_of(config, rows)) {}

int64_t BatchPlan::every(int64_t times_per_epoch) const { return divide_up(steps_per_epoch_, times_per_epoch); }

int64_t BatchPlan::micro_batches_max() const {
  return std::min(options_.gradient_accumulation_steps, micro_batches_per_epoch_);
}

std::vector<std::vector<int64_t>> BatchPlan::rows_of(int64_t step) const {
  SLUICE_CHECK(step >= 0, "a negative step");
  const int64_t epoch = step / steps_per_epoch_;
  const int64_t first = step % steps_per_epoch_ * options_.gradient_accumulation_steps;
  const int64_t last = std::min(first + options_.gradient_accumulation_steps, micro_batches_per_epoch_);
  std::vector<std::vector<int64_t>> micro_batches;
  for (int64_t m = first; m < last; ++m) {
    const int64_t begin = m * options_.micro_batch_size;
    const int64_t end = std::min(begin + options_.micro_batch_size, options_.rows);
    std::vector<int64_t>& rows = micro_batches.emplace_back();
    for (int64_t position = begin; position < end; ++position) rows.push_back(order_.at(epoch, position));
  }
  return micro_batches;
}

namespace {

StepData read_all(const TokenDataset& dataset, const std::vector<std::vector<int64_t>>& micro_batches) {
  StepData data;
  for (const std::vector<int64_t>& rows : micro_batches) {
    data.micro_batches.push_back(dataset.read(rows));
    data.supervised += data.micro_batches.back().supervised;
  }
  return data;
}

}  // namespace

StepData BatchPlan::training(const TokenDataset& dataset, int64_t step) const {
  SLUICE_CHECK(dataset.rows() == options_.rows, "the plan is for another dataset");
  return read_all(dataset, rows_of(step));
}

int64_t BatchPlan::validation_batches(const TokenDataset& dataset, int64_t micro_batches) const {
  return divide_up(dataset.rows(), options_.micro_batch_size * micro_batches);
}

StepData BatchPlan::validation(const TokenDataset& dataset, int64_t batch, int64_t micro_batches) const {
  std::vector<std::vector<int64_t>> all;
  const int64_t first = batch * micro_batches * options_.micro_batch_size;
  const int64_t last = std::min(first + micro_batches * options_.micro_batch_size, dataset.rows());
  SLUICE_CHECK(first >= 0 && first < last, "no such validation batch");
  for (int64_t begin = first; begin < last; begin += options_.micro_batch_size) {
    std::vector<int64_t>& rows = all.emplace_back();
    for (int64_t row = begin; row < std::min(begin + options_.micro_batch_size, last); ++row) rows.push_back(row);
  }
  return read_all(dataset, all);
}

}  // namespace sluice::train
