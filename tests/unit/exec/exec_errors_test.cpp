// What goes wrong around the executor's steps: reading states back, probing drives, tracing, descriptors.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "runtime/exec/lane_thread.h"
#include "runtime/exec/probe_drives.h"
#include "runtime/exec/probe_loads.h"
#include "runtime/exec/trace.h"
#include "swap/host_slab.h"
#include "tests/unit/core/few_files.h"
#include "tests/unit/exec/toy_run.h"

namespace sluice::exec {
namespace {

namespace fs = std::filesystem;

const ToyJob kDisk{"disk", plan::DeviceMemory::unified, Tier::disk, Tier::disk, Tier::disk, plan::SlotFate::disk, 2};

class FolderOfTest : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  swap::SwapOptions options() const {
    swap::SwapOptions options;
    options.nvme_paths = {folder_};
    options.request_bytes = KiB(64);
    return options;
  }

  fs::path folder_ = fs::path(testing::TempDir()) / ("exec-errors-" + std::to_string(getpid()));
};
using ProbeErrors = FolderOfTest;
using TraceErrors = FolderOfTest;

// The backend fails, or answers late, once the test says so: after the steps, while their states are read back.
class Turning final : public swap::IoBackend {
 public:
  enum class Kind { fails, late };
  struct Switch {
    std::atomic<bool> on = false;
    Kind kind = Kind::fails;
  };
  Turning(std::unique_ptr<swap::IoBackend> inner, Switch& on) : inner_(std::move(inner)), switch_(on) {}
  size_t submit(std::span<const swap::IoRequest> requests) override { return inner_->submit(requests); }
  std::vector<swap::IoOutcome> reap() override {
    std::vector<swap::IoOutcome> outcomes = inner_->reap();
    if (!switch_.on || outcomes.empty()) return outcomes;
    if (switch_.kind == Kind::late) {
      switch_.on = false;
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    } else {
      for (swap::IoOutcome& outcome : outcomes) outcome.result = -EIO;
    }
    return outcomes;
  }
  void wake() override { inner_->wake(); }
  Result<void> register_memory(std::span<std::byte> memory) override { return inner_->register_memory(memory); }

 private:
  std::unique_ptr<swap::IoBackend> inner_;
  Switch& switch_;
};

swap::SwapEngine::WrapBackend turning(Turning::Switch& on) {
  return [&on](std::unique_ptr<swap::IoBackend> inner) { return std::make_unique<Turning>(std::move(inner), on); };
}

TEST(ReadBackErrors, AFailedReadIsTheRunsError) {
  Turning::Switch on;
  Toy toy(kDisk, turning(on));
  toy.train(2);
  on.on = true;
  try {
    toy.read_back();
    FAIL() << "states that could not be read";
  } catch (const RunError& error) {
    EXPECT_NE(error.error().message.find("Input/output error"), std::string::npos) << error.what();
  }
}

TEST(ReadBackErrors, ADriveThatAnswersLateIsNamed) {
  Turning::Switch on;
  on.kind = Turning::Kind::late;
  std::vector<std::string> said;
  ExecutorOptions options{.optimizer_threads = 2};
  options.watchdog = {Microseconds{20e3}, [&](const std::string& line) { said.push_back(line); }};
  Toy toy(kDisk, turning(on), options);
  toy.train(2);
  said.clear();
  on.on = true;
  toy.read_back();
  ASSERT_FALSE(said.empty());
  EXPECT_NE(said.front().find("read for a checkpoint, "), std::string::npos) << said.front();
}

TEST_F(ProbeErrors, ADriveThatIsTooSmallIsRefusedWithNeedAndFree) {
  if (mount("tmpfs", folder_.c_str(), "tmpfs", 0, "size=1m") != 0) GTEST_SKIP() << "mounting a tmpfs takes root";
  std::string refusal;
  try {
    inspect_drive_for_probe(folder_, ProbeLength::quick);
  } catch (const SetupError& error) {
    refusal = error.what();
  }
  umount2(folder_.c_str(), MNT_DETACH);
  EXPECT_NE(refusal.find(" has 1.00 MiB free; the probe needs "), std::string::npos) << refusal;
}

TEST_F(ProbeErrors, ADriveThatFailsEndsTheProbe) {
  swap::HostSlab slab(KiB(256));
  for (const int64_t fail_at : {0, 20}) {
    swap::SwapEngine engine(options(), [fail_at](std::unique_ptr<swap::IoBackend> inner) {
      return swap::make_faulty_backend(std::move(inner), {.fail_at = fail_at, .fail_errno = EIO});
    });
    const auto probe = [&] {
      DriveLoad load(engine, slab.memory(),
                     {make_extents(engine, slab.memory(), 64 << 10, 16), 64 << 10, 4, DriveMode::both});
      for (int i = 0; i < 100; ++i) load.work();
    };
    EXPECT_THROW(probe(), RunError) << fail_at;
  }
}

TEST_F(TraceErrors, ATraceThatCannotBeWrittenIsNamed) {
  try {
    TraceWriter().save(folder_ / "absent" / "trace.json");
    FAIL() << "a trace in a folder that is not there";
  } catch (const RunError& error) {
    EXPECT_NE(error.error().message.find("trace.json: cannot write the trace"), std::string::npos) << error.what();
  }
}

TEST(LaneErrors, AQueueThatGetsNoDescriptorSaysWhatToRaise) {
  std::string hint;
  try {
    const FewFiles none(0);
    const EventQueue queue;
  } catch (const RunError& error) {
    hint = error.error().hint;
  }
  EXPECT_EQ(hint, "raise `ulimit -n`");
}

}  // namespace
}  // namespace sluice::exec
