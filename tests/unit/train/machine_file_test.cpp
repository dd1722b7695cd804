// Machine files: what is written is read back, what is wrong is refused with the whole message that its user gets, and
// every file that we ship is good.
#include "runtime/train/machine_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "runtime/core/result.h"
#include "runtime/train/machine_summary.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

const std::string kSmall =
    "cores: 8\n"
    "host_memory: 64 GiB\n"
    "gemm: {bf16: {rate: 165 TFLOP/s}}\n"
    "attention: {bf16: {forward: 127 TFLOP/s, backward: 89 TFLOP/s}}\n"
    "device_stream: 900 GB/s\n"
    "dram: 60 GB/s\n"
    "h2d: 21 GB/s\n"
    "d2h: 20 GB/s\n"
    "copies_both: 35 GB/s\n"
    "drives:\n"
    "  - path: /mnt/nvme{}\n"
    "    rates: [{request: 4 MiB, depth: 16, read: 7 GB/s, write: 5 GB/s, both: 6 GB/s}]\n"
    "optimizer: [{threads: 8, alone: 60 GB/s, beside_compute: 50 GB/s, compute_left: 0.9}]\n";

std::string with(const std::string& old, const std::string& fresh) {
  std::string text = kSmall;
  const size_t at = text.find(old);
  EXPECT_NE(at, std::string::npos) << old;
  return text.replace(at, old.size(), fresh);
}

std::string refusal(const std::string& text) {
  try {
    parse_machine(text, "m.yaml");
  } catch (const SetupError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(MachineFile, reads_every_quantity_in_its_unit) {
  const plan::Machine machine = parse_machine(kSmall, "m.yaml");
  EXPECT_EQ(machine.host_bytes, GiB(64));
  EXPECT_EQ(machine.gemm.at(Dtype::bf16).flops_per_second, 165e12);
  EXPECT_EQ(machine.attention.at(Dtype::bf16).backward_flops_per_second, 89e12);
  EXPECT_EQ(machine.d2h.count, 20e9);
  EXPECT_EQ(machine.drives.at(0).rates.at(0).request_bytes, MiB(4).count);
  EXPECT_EQ(machine.all_drives.write.count, 5e9);
  EXPECT_EQ(machine.optimizer.at(0).compute_left, 0.9);
  EXPECT_EQ(parse_machine(with("21 GB/s", "20 GiB/s"), "m.yaml").h2d.count, 20 * 0x1p30);
}

TEST(MachineFile, drives_alike_are_numbered_and_limited_together) {
  const std::string three = with("    rates:", "    count: 3\n    rated_tbw: 1.2 PB\n    rates:");
  const plan::Machine machine =
      parse_machine(three + "drives_at_most: {read: 15 GB/s, write: 99 GB/s, both: 99 GB/s}\n", "m.yaml");
  ASSERT_EQ(machine.drives.size(), 3u);
  EXPECT_EQ(machine.drives[2].path, "/mnt/nvme2");
  EXPECT_EQ(machine.drives[2].rated_tbw, 1200);
  EXPECT_EQ(machine.all_drives.read.count, 15e9);
  EXPECT_EQ(machine.all_drives.write.count, 15e9);  // 3 x 5
}

TEST(MachineFile, what_is_written_is_read_back) {
  plan::Machine machine =
      parse_machine(with("    rates:", "    count: 2\n    rated_tbw: 600 TB\n    rates:"), "m.yaml");
  machine.name = "a \"quoted\" \\ name\nin two lines";
  machine.device_bytes = GiB(24);
  machine.measured = "2026-11-23T10:38:34Z";
  machine.gemm[Dtype::f32] = {1.5e12, 10, 20, 30, {7}, 0.03, 0.25};
  machine.attention[Dtype::f32] = {1e12, 8e11, 64, 96, 32, {9}, 0.05, 0.5};
  machine.drives[1].page_cache = machine.drives[1].spinning = true;
  machine.drives_at_most = {0, 0, {32e9}, {31e9}, {30e9}};
  machine.beside[0][3] = 0.75;
  const plan::Machine again = parse_machine(machine_text(machine), "m.yaml");
  EXPECT_EQ(machine_text(again), machine_text(machine));
  EXPECT_EQ(again.name, "a \"quoted\" \\ name in two lines");
  EXPECT_EQ(again.device_bytes, GiB(24));
  EXPECT_EQ(again.gemm.at(Dtype::f32).k_half, 30);
  EXPECT_EQ(again.gemm.at(Dtype::f32).error_worst, 0.25);
  EXPECT_EQ(again.drives.at(1).page_cache, true);
  EXPECT_EQ(again.drives_at_most.both.count, 30e9);
  EXPECT_EQ(again.beside[0][3], 0.75);
}

struct Refusal {
  std::string old, fresh, message;
};
class SmallMachineWith : public testing::TestWithParam<Refusal> {};
TEST_P(SmallMachineWith, is_refused_with_this_message) {
  EXPECT_EQ(refusal(with(GetParam().old, GetParam().fresh)), GetParam().message);
}

const std::string kRateUnits = "known: TB/s, GB/s, MB/s, KB/s, TiB/s, GiB/s, MiB/s or KiB/s";
const std::string kSource = "see configs/machine for examples, or run `sluice probe`";

INSTANTIATE_TEST_SUITE_P(
    bad_machines, SmallMachineWith,
    testing::Values(
        Refusal{"h2d: 21 GB/s\n", "", "m.yaml: the machine has no 'h2d'\n  fix: add `h2d: 7 GB/s`; " + kSource},
        Refusal{"read: 7 GB/s, ", "",
                "m.yaml:12:13: drives[0].rates[0] has no 'read'\n  fix: add `read: 7 GB/s`; " + kSource},
        Refusal{"21 GB/s", "0 GB/s",
                "m.yaml:7:6: h2d must be above 0, not '0 GB/s'\n  fix: write what the machine does, or run `sluice "
                "probe`"},
        Refusal{"21 GB/s", "-3 GB/s",
                "m.yaml:7:6: h2d must be above 0, not '-3 GB/s'\n  fix: write what the machine does, or run `sluice "
                "probe`"},
        Refusal{"21 GB/s", "1e300 TB/s",
                "m.yaml:7:6: h2d is '1e300 TB/s', which no machine has\n  fix: write what the machine does, or run "
                "`sluice probe`"},
        Refusal{"64 GiB", "1e-9 KiB",
                "m.yaml:2:14: host_memory is '1e-9 KiB', which no machine has\n  fix: write what the machine does, or "
                "run `sluice probe`"},
        Refusal{"    rates:", "    count: 1000000\n    rates:",
                "m.yaml:11:11: drives[0].path must be one of at most 1024 drives, not '/mnt/nvme{}'\n  fix: for "
                "example: path: /mnt/nvme0"},
        Refusal{
            "165 TFLOP/s", "nan TFLOP/s",
            "m.yaml:3:21: gemm.bf16.rate must be a rate with its unit, not 'nan TFLOP/s'\n  fix: for example: rate: "
            "165 TFLOP/s"},
        Refusal{
            "21 GB/s", "21 Gb/s",
            "m.yaml:7:6: h2d: '21 Gb/s' has the unit 'Gb/s', which is not known here\n  fix: did you mean 'GB/s'? " +
                kRateUnits},
        Refusal{"21 GB/s", "21", "m.yaml:7:6: h2d: '21' has no unit\n  fix: for example: h2d: 7 GB/s; " + kRateUnits},
        Refusal{"21 GB/s", "fast",
                "m.yaml:7:6: h2d must be a rate with its unit, not 'fast'\n  fix: for example: h2d: 7 GB/s"},
        Refusal{
            "dram: ", "drum: ",
            "m.yaml:6:1: unknown key 'drum'\n  fix: did you mean 'dram'? known here: name, fingerprint, measured, "
            "cores, host_memory, device_memory, gemm, attention, device_stream, dram, h2d, d2h, copies_both, drives, "
            "all_drives, drives_at_most, optimizer or beside"},
        Refusal{"dram: 60 GB/s\n", "dram: 60 GB/s\ndram: 60 GB/s\n",
                "m.yaml:7:1: 'dram' is given twice, first in line 6\n  fix: keep one"},
        Refusal{"gemm: {bf16: {rate: 165 TFLOP/s}}", "gemm: {}",
                "m.yaml:3:1: gemm has no 'bf16'\n  fix: add `bf16: {rate: 165 TFLOP/s}`; " + kSource},
        Refusal{"gemm: {bf16: {rate: 165 TFLOP/s}}", "gemm: fast",
                "m.yaml:3:7: gemm must be a block of keys, not 'fast'\n  fix: " + kSource},
        Refusal{"depth: 16", "depth: 0",
                "m.yaml:12:37: drives[0].rates[0].depth must be a whole number from 1, not '0'\n  fix: for example: "
                "depth: 16"},
        Refusal{"depth: 16", "depth: 16x",
                "m.yaml:12:37: drives[0].rates[0].depth must be a whole number from 1, not '16x'\n  fix: for example: "
                "depth: 16"},
        Refusal{"depth: 16", "depth: 1.5",
                "m.yaml:12:37: drives[0].rates[0].depth must be a whole number from 1, not '1.5'\n  fix: for example: "
                "depth: 16"},
        Refusal{"depth: 16", "depth: 1e7",
                "m.yaml:12:37: drives[0].rates[0].depth must be a whole number from 1, not '1e7'\n  fix: for example: "
                "depth: 16"},
        Refusal{"cores: 8", "cores: [8]",
                "m.yaml:1:8: cores must be a whole number from 1, not a list\n  fix: for example: cores: 16"},
        Refusal{"cores: 8", "cores: inf",
                "m.yaml:1:8: cores must be a whole number from 1, not 'inf'\n  fix: for example: cores: 16"},
        Refusal{"cores: 8", "name: [mine]\ncores: 8",
                "m.yaml:1:7: name must be a text, not a list\n  fix: for example: name: my machine"},
        Refusal{"cores: 8", "name: ''\ncores: 8",
                "m.yaml:1:7: name must be a text, not ''\n  fix: for example: name: my machine"},
        Refusal{"{rate: 165 TFLOP/s}", "{rate: 165 TFLOP/s, m_half: -1}",
                "m.yaml:3:42: gemm.bf16.m_half must be a number from 0, not '-1'\n  fix: for example: m_half: 64"},
        Refusal{"{rate: 165 TFLOP/s}", "{rate: 165 TFLOP/s, m_half: some}",
                "m.yaml:3:42: gemm.bf16.m_half must be a number from 0, not 'some'\n  fix: for example: m_half: 64"},
        Refusal{"{rate: 165 TFLOP/s}", "{rate: 165 TFLOP/s, m_half: 1e19}",
                "m.yaml:3:42: gemm.bf16.m_half must be a number from 0, not '1e19'\n  fix: for example: m_half: 64"},
        Refusal{"{rate: 165 TFLOP/s}", "{rate: 165 TFLOP/s, overhead: -1 us}",
                "m.yaml:3:44: gemm.bf16.overhead must be at least 0, not '-1 us'\n  fix: write what the machine does, "
                "or run `sluice probe`"},
        Refusal{"21 GB/s", "[21 GB/s]",
                "m.yaml:7:6: h2d must be a rate with its unit, not a list\n  fix: for example: h2d: 7 GB/s"},
        Refusal{
            "    rates:", "    page_cache: maybe\n    rates:",
            "m.yaml:12:17: drives[0].page_cache must be true or false, not 'maybe'\n  fix: for example: page_cache: "
            "true"},
        Refusal{"    rates:", "    spinning: [true]\n    rates:",
                "m.yaml:12:15: drives[0].spinning must be true or false, not a list\n  fix: for example: spinning: "
                "true"},
        Refusal{"[{threads: 8, alone: 60 GB/s, beside_compute: 50 GB/s, compute_left: 0.9}]", "[]",
                "m.yaml:13:12: optimizer must be a list with at least one entry, not a list\n  fix: for example: "
                "optimizer: [{threads: 8, alone: 60 GB/s, beside_compute: 50 GB/s, compute_left: 1}]"},
        Refusal{"[{threads: 8, alone: 60 GB/s, beside_compute: 50 GB/s, compute_left: 0.9}]", "fast",
                "m.yaml:13:12: optimizer must be a list with at least one entry, not 'fast'\n  fix: for example: "
                "optimizer: [{threads: 8, alone: 60 GB/s, beside_compute: 50 GB/s, compute_left: 1}]"},
        Refusal{"compute_left: 0.9", "compute_left: 0",
                "m.yaml:13:81: optimizer[0].compute_left must be a share above 0 and at most 1, not '0'\n  fix: for "
                "example: compute_left: 0.8"},
        Refusal{"compute_left: 0.9", "compute_left: most",
                "m.yaml:13:81: optimizer[0].compute_left must be a share above 0 and at most 1, not 'most'\n  fix: for "
                "example: compute_left: 0.8"},
        Refusal{"compute_left: 0.9", "compute_left: 1.5",
                "m.yaml:13:81: optimizer[0].compute_left must be a share above 0 and at most 1, not '1.5'\n  fix: for "
                "example: compute_left: 0.8"}));

TEST(MachineFile, without_keys_or_values_is_named_with_its_place) {
  EXPECT_EQ(refusal("- cores: 8\n"), "m.yaml:1:1: a machine must be a block of keys, not a list\n  fix: " + kSource);
  EXPECT_EQ(refusal(with("cores: 8", "cores:")),
            "m.yaml:1:1: cores must be a whole number from 1, not nothing\n  fix: for example: cores: 16");
  EXPECT_EQ(refusal(with("gemm: {bf16: {rate: 165 TFLOP/s}}", "gemm:")),
            "m.yaml:3:1: gemm must be a block of keys, not nothing\n  fix: " + kSource);
  EXPECT_EQ(refusal(""), "m.yaml: a machine must be a block of keys, not nothing\n  fix: " + kSource);
}

TEST(MachineFile, that_is_not_there_or_a_folder_is_named) {
  for (const char* file : {"/nowhere/m.yaml", "/"}) {
    try {
      read_machine(file);
      FAIL() << file;
    } catch (const SetupError& error) {
      EXPECT_EQ(error.error().message, std::string(file) + ": cannot be read");
    }
  }
}

TEST(MachineSummary, says_whose_memory_and_copies_it_speaks_of) {
  const plan::Machine without = parse_machine(with("[{threads: 8,", "[{threads: 1,"), "m.yaml");
  plan::Machine with_gpu = parse_machine(with("cores: 8", "name: tower\ncores: 8"), "m.yaml");
  with_gpu.device_bytes = GiB(24);
  const std::string host = machine_summary(without), device = machine_summary(with_gpu);
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  EXPECT_TRUE(has(host, "a machine, 64.00 GiB of RAM, no GPU: compute is the processor's\n")) << host;
  EXPECT_TRUE(has(host, "copies are the memcpy of the emulated device")) << host;
  EXPECT_TRUE(has(host, "  1 thread  ")) << host;
  EXPECT_TRUE(has(device, "tower, 64.00 GiB of RAM, 24.00 GiB of GPU memory\n")) << device;
  EXPECT_FALSE(has(device, "memcpy")) << device;
  EXPECT_TRUE(has(device, "  8 threads  ")) << device;
}

TEST(MachineFile, every_shipped_file_is_good) {
  int files = 0;
  for (const auto& entry : fs::directory_iterator(SLUICE_SOURCE_DIR "/configs/machine")) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    const plan::Machine machine = read_machine(entry.path());
    EXPECT_GT(machine.device_bytes, Bytes{}) << entry.path();
    EXPECT_TRUE(machine.gemm.contains(Dtype::bf16)) << entry.path();
  }
  EXPECT_GE(files, 5);
}

TEST(MachineFile, is_replaced_whole_or_not_at_all) {
  const fs::path folder = fs::path(testing::TempDir()) / "machine-file";
  fs::create_directories(folder);
  write_machine(parse_machine(kSmall, "m.yaml"), folder / "m.yaml");
  EXPECT_EQ(read_machine(folder / "m.yaml").cores, 8);
  EXPECT_THROW(write_machine(parse_machine(kSmall, "m.yaml"), folder / "absent" / "m.yaml"), SetupError);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 1);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace sluice::train
