#include "runtime/train/machine_file.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>

#include "runtime/core/result.h"
#include "runtime/train/machine_block.h"

namespace sluice::train {
namespace {

BytesPerSecond rate(const MachineBlock& block, std::string_view key) { return {block.quantity(key, kRate)}; }
Bytes size(double bytes) { return {static_cast<int64_t>(std::llround(bytes))}; }

Dtype dtype_of(const MachineBlock& block, const DocumentField& field) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16})
    if (name_of(dtype) == field.key) return dtype;
  block.refuse(field, "under f32, bf16 or f16", "...");
}

plan::GemmModel read_gemm(const MachineBlock& block) {
  return {.flops_per_second = block.quantity("rate", kFlopsRate),
          .m_half = block.number_or("m_half", 0),
          .n_half = block.number_or("n_half", 0),
          .k_half = block.number_or("k_half", 0),
          .overhead = {block.quantity_or("overhead", kTime, 0)},
          .error_median = block.quantity_or("error_median", kShare, 0),
          .error_worst = block.quantity_or("error_worst", kShare, 0)};
}

plan::AttentionModel read_attention(const MachineBlock& block) {
  const double length_half = block.number_or("length_half", 0);
  return {.forward_flops_per_second = block.quantity("forward", kFlopsRate),
          .backward_flops_per_second = block.quantity("backward", kFlopsRate),
          .length_half = length_half,
          .backward_length_half = block.number_or("backward_length_half", length_half),
          .head_dim_half = block.number_or("head_dim_half", 0),
          .overhead = {block.quantity_or("overhead", kTime, 0)},
          .error_median = block.quantity_or("error_median", kShare, 0),
          .error_worst = block.quantity_or("error_worst", kShare, 0)};
}

plan::DriveRate read_drive_rate(const MachineBlock& block) {
  return {.request_bytes = size(block.quantity("request", kBytes)).count,
          .depth = block.count("depth", "16"),
          .read = rate(block, "read"),
          .write = rate(block, "write"),
          .both = rate(block, "both")};
}
const Keys kDriveRateKeys = {"request", "depth", "read", "write", "both"};
constexpr std::string_view kDriveRateExample =
    "[{request: 4 MiB, depth: 16, read: 7 GB/s, write: 5 GB/s, both: 6 GB/s}]";

constexpr size_t kDrivesMax = 1024;
const Keys kDriveKeys = {"path", "count", "rates", "rated_tbw", "page_cache", "spinning"};

// `{}` in the path of several drives alike stands for their number.
std::string numbered(const std::string& path, int number) {
  const size_t place = path.find("{}");
  return place == std::string::npos ? path : path.substr(0, place) + std::to_string(number) + path.substr(place + 2);
}

void read_drive(const MachineBlock& block, std::vector<plan::Drive>& drives) {
  block.need("path", "/mnt/nvme0");
  plan::Drive drive{.path = block.text_or("path", "")};
  const std::vector<DocumentValue>& rates = block.list("rates", kDriveRateExample);
  for (size_t i = 0; i < rates.size(); ++i)
    drive.rates.push_back(read_drive_rate(block.entry("rates", i, rates[i], kDriveRateKeys)));
  drive.rated_tbw = block.quantity_or("rated_tbw", kEndurance, 0);
  drive.page_cache = block.flag_or("page_cache", false);
  drive.spinning = block.flag_or("spinning", false);
  const std::string path = drive.path;
  const int count = block.count_or("count", 1);
  if (drives.size() + static_cast<size_t>(count) > kDrivesMax)
    block.refuse(block.need("path", "/mnt/nvme0"), "one of at most " + std::to_string(kDrivesMax) + " drives",
                 "/mnt/nvme0");
  for (int i = 0; i < count; ++i) {
    drive.path = numbered(path, i);
    drives.push_back(drive);
  }
}

// Of host and chipset.
plan::DriveRate read_limit(const MachineBlock& block) {
  return {.read = rate(block, "read"), .write = rate(block, "write"), .both = rate(block, "both")};
}

plan::OptimizerRate read_optimizer(const MachineBlock& block) {
  return {.threads = block.count("threads", "8"),
          .alone = rate(block, "alone"),
          .beside_compute = rate(block, "beside_compute"),
          .compute_left = block.share(block.need("compute_left", "0.9"))};
}

Keys lane_names() {
  Keys names;
  for (int lane = 0; lane < kLaneCount; ++lane) names.push_back(name_of(static_cast<Lane>(lane)));
  return names;
}

size_t lane_of(std::string_view name) {
  const Keys names = lane_names();
  return static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
}

void read_beside(const MachineBlock& rows, plan::Machine& machine) {
  for (const DocumentField& row : rows.fields()) {
    const MachineBlock columns = rows.block(row, lane_names());
    for (const DocumentField& column : columns.fields())
      machine.beside[lane_of(row.key)][lane_of(column.key)] = columns.share(column);
  }
}

const Keys kMachineKeys = {
    "name",        "fingerprint", "measured",      "cores",          "host_memory", "device_memory",
    "gemm",        "attention",   "device_stream", "dram",           "h2d",         "d2h",
    "copies_both", "drives",      "all_drives",    "drives_at_most", "optimizer",   "beside"};

void read_compute(const MachineBlock& root, plan::Machine& machine) {
  const Keys dtypes = {"f32", "bf16", "f16"};
  const MachineBlock gemm = root.block(root.need("gemm", "{bf16: {rate: 165 TFLOP/s}}"), dtypes);
  const MachineBlock attention =
      root.block(root.need("attention", "{bf16: {forward: 100 TFLOP/s, backward: 80 TFLOP/s}}"), dtypes);
  if (gemm.fields().empty()) gemm.need("bf16", "{rate: 165 TFLOP/s}");
  for (const DocumentField& field : gemm.fields()) {
    machine.gemm[dtype_of(gemm, field)] =
        read_gemm(gemm.block(field, {"rate", "m_half", "n_half", "k_half", "overhead", "error_median", "error_worst"}));
    attention.need(field.key, "{forward: 100 TFLOP/s, backward: 80 TFLOP/s}");
  }
  for (const DocumentField& field : attention.fields())
    machine.attention[dtype_of(attention, field)] =
        read_attention(attention.block(field, {"forward", "backward", "length_half", "backward_length_half",
                                               "head_dim_half", "overhead", "error_median", "error_worst"}));
}

void read_drives(const MachineBlock& root, plan::Machine& machine) {
  const std::vector<DocumentValue>& drives = root.list("drives", "[{path: /mnt/nvme0, rates: [...]}]");
  for (size_t i = 0; i < drives.size(); ++i) read_drive(root.entry("drives", i, drives[i], kDriveKeys), machine.drives);
  if (const DocumentField* limit = root.find("drives_at_most"))
    machine.drives_at_most = read_limit(root.block(*limit, {"read", "write", "both"}));
  const DocumentField* all = root.find("all_drives");
  machine.all_drives = all == nullptr ? plan::within(plan::striped(machine.drives), machine.drives_at_most)
                                      : read_drive_rate(root.block(*all, kDriveRateKeys));
}

void read_optimizers(const MachineBlock& root, plan::Machine& machine) {
  const std::vector<DocumentValue>& rates =
      root.list("optimizer", "[{threads: 8, alone: 60 GB/s, beside_compute: 50 GB/s, compute_left: 1}]");
  for (size_t i = 0; i < rates.size(); ++i)
    machine.optimizer.push_back(
        read_optimizer(root.entry("optimizer", i, rates[i], {"threads", "alone", "beside_compute", "compute_left"})));
  std::stable_sort(machine.optimizer.begin(), machine.optimizer.end(),
                   [](const auto& a, const auto& b) { return a.threads < b.threads; });
}

std::string text_of_file(const std::filesystem::path& file) {
  std::ifstream stream(file);
  if (!stream || std::filesystem::is_directory(file))
    throw SetupError(file.string() + ": cannot be read",
                     "give the path of a machine file: one of configs/machine, or what `sluice probe --out` wrote");
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace

plan::Machine parse_machine(const std::string& text, const std::string& origin) {
  const DocumentValue document = parse_document(text, origin);
  const MachineBlock root(origin, "", document, {}, kMachineKeys);
  plan::Machine machine;
  machine.name = root.text_or("name", "a machine");
  machine.fingerprint = root.text_or("fingerprint", "");
  machine.measured = root.text_or("measured", "");
  machine.cores = root.count("cores", "16");
  machine.host_bytes = size(root.quantity("host_memory", kBytes));
  machine.device_bytes = size(root.quantity_or("device_memory", kBytes, 0));
  read_compute(root, machine);
  machine.device_memory = rate(root, "device_stream");
  machine.dram = rate(root, "dram");
  machine.h2d = rate(root, "h2d");
  machine.d2h = rate(root, "d2h");
  machine.copies_both = rate(root, "copies_both");
  read_drives(root, machine);
  read_optimizers(root, machine);
  if (const DocumentField* rows = root.find("beside")) read_beside(root.block(*rows, lane_names()), machine);
  return machine;
}

plan::Machine read_machine(const std::filesystem::path& file) {
  return parse_machine(text_of_file(file), file.string());
}

}  // namespace sluice::train
