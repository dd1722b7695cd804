// Runs a program on a drive with a volatile write cache and stops the machine at a chosen moment:
//   power_loss --below DIR [--below DIR]... [--boundary N | --call TEXT [--later N] | --after SECONDS]
//              [--fault killed|dropped|reordered|torn] [--seed S] [--report FILE] [--calls]
//              [--written-back-after SECONDS] -- command...
//
// Boundary N is the moment before the Nth call (from 1) that changes or syncs something below the folders; with TEXT it
// is before the first call whose description has it, or N calls later. Then every process is killed, and the folders
// are left as the drive may hold them. Without a moment the program runs to its end. The report, JSON: boundaries
// passed, whether it was stopped, in which call, what was lost; with --calls all calls. Exit code: 137 when it was
// stopped, else the program's; 2 for wrong usage, 3 when a call is not modelled.
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/crash/disk_calls.h"

namespace {

namespace fs = std::filesystem;
using namespace sluice::crash;

constexpr int kExitUsage = 2, kExitNotModelled = 3, kExitStopped = 128 + SIGKILL;

struct Options {
  std::vector<fs::path> below;
  int64_t boundary = 0;
  std::string call;
  int64_t later = 0;
  double after_seconds = 0;
  Fault fault = Fault::torn;
  uint64_t seed = 1;
  fs::path report;
  bool calls = false;
  double written_back_seconds = 0;
  std::vector<std::string> command;
};

Options options_of(int count, char** texts) {
  Options options;
  int i = 1;
  for (; i < count && std::string(texts[i]) != "--"; ++i) {
    const std::string name = texts[i];
    if (name == "--calls") {
      options.calls = true;
      continue;
    }
    const std::string value = i + 1 < count ? texts[++i] : throw std::invalid_argument(name + " has no value");
    if (name == "--below") {
      options.below.push_back(fs::canonical(value));
    } else if (name == "--boundary") {
      options.boundary = std::stoll(value);
    } else if (name == "--call") {
      options.call = value;
    } else if (name == "--later") {
      options.later = std::stoll(value);
    } else if (name == "--after") {
      options.after_seconds = std::stod(value);
    } else if (name == "--fault") {
      const std::optional<Fault> fault = fault_named(value);
      options.fault = fault ? *fault : throw std::invalid_argument("no such fault: " + value);
    } else if (name == "--seed") {
      options.seed = std::stoull(value);
    } else if (name == "--report") {
      options.report = value;
    } else if (name == "--written-back-after") {
      options.written_back_seconds = std::stod(value);
    } else {
      throw std::invalid_argument("no such option: " + name);
    }
  }
  for (++i; i < count; ++i) options.command.push_back(texts[i]);
  if (options.command.empty() || options.below.empty())
    throw std::invalid_argument("give --below DIR and, after --, a command");
  return options;
}

constexpr suseconds_t kAlarmAgainUs = 10'000;

void stop_after(double seconds) {
  // Without SA_RESTART: the wait for the program ends with EINTR.
  struct sigaction action {};
  action.sa_handler = [](int) {};
  sigaction(SIGALRM, &action, nullptr);
  const auto whole = static_cast<time_t>(seconds);
  // Again and again: it may come while a call is looked at, and ends nothing there.
  const itimerval timer = {{0, kAlarmAgainUs}, {whole, static_cast<suseconds_t>(std::fmod(seconds, 1) * 1e6) + 1}};
  setitimer(ITIMER_REAL, &timer, nullptr);
}

int run(const Options& options) {
  const fs::path root = options.below[0];
  VolatileDisk disk(options.below,
                    root.parent_path() / ('.' + root.filename().string() + ".stash-" + std::to_string(getpid())));
  DiskCalls calls(disk);
  WatchedProcess program(options.command);
  nlohmann::ordered_json report = {{"boundaries", 0}, {"stopped", false}, {"fault", ""}, {"call", ""}};
  int64_t boundaries = 0, boundary = options.boundary;
  const auto starts = [&](const SystemCall& call) {
    const std::string text = calls.starts(call);
    if (text.empty()) return true;
    if (options.written_back_seconds > 0)
      disk.write_back(
          std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.written_back_seconds)));
    report["call"] = text;
    if (options.calls) report["calls"].push_back(text);
    ++boundaries;
    if (!options.call.empty() && boundary == 0 && text.find(options.call) != std::string::npos)
      boundary = boundaries + options.later;
    return boundaries != boundary;
  };
  const auto ends = [&](const SystemCall& call, int64_t result) { calls.ends(call, result); };
  if (options.after_seconds > 0) stop_after(options.after_seconds);
  const std::optional<int> status = program.run({starts, ends});
  report["boundaries"] = boundaries;
  if (!status) {
    std::mt19937_64 random(options.seed);
    const Losses losses = disk.lose(options.fault, random);
    report["stopped"] = true;
    report["writes_lost"] = losses.writes;
    report["entries_lost"] = losses.entries;
  }
  if (!options.report.empty()) std::ofstream(options.report) << report.dump(1) << '\n';
  if (!status) return kExitStopped;
  return WIFEXITED(*status) ? WEXITSTATUS(*status) : 128 + WTERMSIG(*status);
}

}  // namespace

int main(int count, char** texts) {
  Options options;
  try {
    options = options_of(count, texts);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n  fix: the header of power_loss.cpp has the usage\n", error.what());
    return kExitUsage;
  }
  try {
    return run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: power_loss: %s\n", error.what());
    return kExitNotModelled;
  }
}
