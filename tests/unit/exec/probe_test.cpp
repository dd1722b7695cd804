// What the machine probe is made of: drives that cannot be measured are refused before anything runs, loads count what
// they do, and a block's time on a machine that is not there follows from its programs.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "runtime/core/result.h"
#include "runtime/exec/block_prediction.h"
#include "runtime/exec/probe_drives.h"
#include "runtime/exec/probe_loads.h"
#include "swap/host_slab.h"

namespace sluice::exec {
namespace {

namespace fs = std::filesystem;

std::string refusal(const fs::path& folder) {
  try {
    inspect_drive_for_probe(folder, ProbeLength::quick);
  } catch (const SetupError& error) {
    return error.what();
  }
  return "accepted";
}

class ProbeDrives : public testing::Test {
 protected:
  fs::path folder_ = fs::path(testing::TempDir()) / ("probe-" + std::to_string(getpid()));
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
};

TEST_F(ProbeDrives, a_folder_that_is_not_there_is_refused) {
  EXPECT_EQ(refusal(folder_ / "absent"),
            (folder_ / "absent").string() + ": No such file or directory\n  fix: give --nvme a folder that exists");
}

TEST_F(ProbeDrives, a_file_is_refused) {
  std::ofstream(folder_ / "file") << "x";
  EXPECT_EQ(refusal(folder_ / "file"),
            (folder_ / "file").string() + " is not a folder\n  fix: give --nvme a folder on the drive");
}

TEST_F(ProbeDrives, a_folder_that_takes_no_files_is_refused) {
  EXPECT_TRUE(refusal("/proc").starts_with("cannot write to /proc: ")) << refusal("/proc");
}

TEST_F(ProbeDrives, looking_at_a_folder_leaves_nothing_there) {
  const swap::DriveKind kind = inspect_drive_for_probe(folder_, ProbeLength::quick);
  EXPECT_FALSE(kind.file_system.empty());
  EXPECT_GT(kind.size, Bytes{});
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(ProbeDrives, memory_is_named_as_what_it_is) {
  if (!fs::exists("/dev/shm")) GTEST_SKIP() << "no /dev/shm";
  const swap::DriveKind kind = inspect_drive_for_probe("/dev/shm", ProbeLength::quick);
  EXPECT_EQ(kind.file_system, "tmpfs");
  EXPECT_TRUE(kind.page_cache);
  ASSERT_EQ(swap::remarks("/dev/shm", kind).size(), 1u);
  EXPECT_TRUE(swap::remarks("/dev/shm", kind)[0].starts_with("/dev/shm is memory (tmpfs), not a drive"));
}

TEST_F(ProbeDrives, a_spinning_disk_and_a_refused_o_direct_are_remarked_on) {
  const auto lines = swap::remarks("/data", {.file_system = "zfs", .page_cache = true, .spinning = true});
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_NE(lines[0].find("refuses O_DIRECT"), std::string::npos);
  EXPECT_NE(lines[1].find("is on a spinning disk"), std::string::npos);
}

TEST_F(ProbeDrives, are_read_written_and_both_and_leave_nothing) {
  const swap::HostSlab slab(kDriveProbeBytes);
  const auto rates = probe_drive(folder_, slab.memory(), ProbeLength::quick, 0.3);
  ASSERT_FALSE(rates.empty());
  for (const plan::DriveRate& rate : rates) {
    EXPECT_GT(rate.read.count, 1e5);
    EXPECT_GT(rate.write.count, 1e5);
    EXPECT_GT(rate.both.count, 1e5);
  }
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST(ProbeLoads, pace_is_work_over_time) {
  RepeatedLoad nap([] { std::this_thread::sleep_for(std::chrono::milliseconds(10)); });
  // Naps end late on a busy machine, and never early.
  const auto expect_pace = [](double pace) { EXPECT_TRUE(pace > 10 && pace <= 100) << pace; };
  expect_pace(pace_of(nap, 0.2));
  const Paces both = paces_together(nap, nap, 0.2);
  expect_pace(both.first);
  expect_pace(both.second);
}

TEST(ProbeLoads, a_share_is_at_most_one_and_never_none) {
  EXPECT_EQ(share_kept(3, 2), 1);
  EXPECT_EQ(share_kept(1, 2), 0.5);
  EXPECT_GT(share_kept(0, 2), 0);
}

TEST(ProbeLoads, a_failure_of_either_ends_both) {
  RepeatedLoad fails([] { throw RunError(Error{ErrorCode::io, "broken", ""}); });
  RepeatedLoad nap([] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); });
  EXPECT_THROW(paces_together(fails, nap, 0.05), RunError);
  EXPECT_THROW(paces_together(nap, fails, 0.05), RunError);
}

// One product [tokens, 1000] x [1000, 2000] recomputed for its slot, attention, and row kernels.
class OneLinear : public models::BlockProgram {
 public:
  const std::string& name() const override { return name_; }
  std::span<const int> groups() const override { return {}; }
  std::span<const models::SlotSpec> slots() const override { return slots_; }
  models::BlockCost cost() const override {
    models::BlockCost cost;
    cost.linears = {{1000, 2000, true, 0, 0}};
    cost.heads = 4;
    cost.head_dim = 64;
    cost.forward_elements_per_token = 500;
    return cost;
  }
  Bytes workspace_bytes(models::Pass, int64_t, std::span<const uint8_t>) const override { return {}; }
  void forward(const models::ForwardArgs&) const override {}
  void backward(const models::BackwardArgs&) const override {}

 private:
  std::string name_ = "one";
  std::vector<models::SlotSpec> slots_ = {{"y", Dtype::bf16, 2000, 4e6, 100}};
};

// And what DoRA adds: the product again in backward, and norms of rows in each pass, however many tokens.
class WithMagnitudes final : public OneLinear {
 public:
  models::BlockCost cost() const override {
    models::BlockCost cost = OneLinear::cost();
    cost.linears.push_back({1000, 2000, false, 1, -1, 0, 3e6, true});
    cost.each_pass = {{{500, 1000, 16, 4}}, 8e6};
    return cost;
  }
};

plan::Machine simple_machine() {
  plan::Machine machine;
  machine.gemm[Dtype::bf16] = {.flops_per_second = 1e12};
  machine.attention[Dtype::bf16] = {.forward_flops_per_second = 1e12, .backward_flops_per_second = 0.5e12};
  machine.device_memory = {1e9};
  return machine;
}

TEST(BlockPrediction, follows_from_products_attention_and_bytes) {
  const plan::Machine machine = simple_machine();
  models::Model model;
  model.compute_dtype = Dtype::bf16;
  model.blocks.push_back(std::make_unique<OneLinear>());
  const BlockPasses passes = predict_block_passes(model, {1024, 512, Dtype::bf16}, machine);
  ASSERT_EQ(passes.blocks.size(), 1u);
  const double product = 2.0 * 1024 * 1000 * 2000 / 1e6, rows = 1024 * 500 * 2 / 1e3;
  const double attention = 2 * 2.0 * 4 * 64 * 512 * 512 / 1e6;  // two documents
  EXPECT_NEAR(passes.blocks[0].forward.count, product + attention + rows, 1e-6);
  EXPECT_NEAR(passes.blocks[0].backward.count, 2 * product + 2.5 * attention / 0.5, 1e-6);
  const double recomputed = product + 1024 * 100 * 2 / 1e3;
  EXPECT_NEAR(passes.blocks[0].slot_recomputing.at(0).count, recomputed, 1e-6);
  EXPECT_NEAR((passes.blocks[0].backward_recomputing.count - passes.blocks[0].backward.count), recomputed, 1e-6);
}

TEST(BlockPrediction, counts_what_a_pass_does_whatever_its_tokens) {
  models::Model model;
  model.compute_dtype = Dtype::bf16;
  model.blocks.push_back(std::make_unique<OneLinear>());
  model.blocks.push_back(std::make_unique<WithMagnitudes>());
  const double norms = 4 * 2.0 * 500 * 1000 * 16 / 1e6 + 8e6 / 1e3;
  for (const int64_t tokens : {512, 1024}) {
    const BlockPasses passes = predict_block_passes(model, {tokens, 512, Dtype::bf16}, simple_machine());
    const double again = 2.0 * static_cast<double>(tokens) * 1000 * 2000 / 1e6 + 3e6 / 1e3;
    EXPECT_NEAR(passes.blocks[1].forward.count - passes.blocks[0].forward.count, norms, 1e-6);
    EXPECT_NEAR(passes.blocks[1].backward.count - passes.blocks[0].backward.count, norms + again, 1e-6);
    EXPECT_EQ(passes.blocks[1].slot_recomputing.at(0).count, passes.blocks[0].slot_recomputing.at(0).count);
  }
}

}  // namespace
}  // namespace sluice::exec
