// The door between the small `sluice` binary and libsluice_runtime.so, which holds LibTorch: `sluice --help` must not
// load it. The binary opens the library only for commands that compute, and calls it through one table.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runtime/train/config.h"

namespace sluice::train {

struct TrainOptions {
  bool dry_run = false;         // print plan and schedule, write nothing
  std::filesystem::path trace;  // Chrome trace events; empty: none
  bool quiet = false;           // nothing of how far it is
  bool json = false;            // on stdout the log's line of each step, and nothing else; a dry run's plan as JSON
};

struct PlanOptions {
  bool json = false;
  std::filesystem::path machine;  // plan for the machine of this file; empty: for this one
  std::optional<Config> beside;   // print what differs between this job's plan and the first one's
  bool rehearse = false;          // run steps with compute waited for, beside the simulation
};

struct ProbeOptions {
  DeviceKind device = DeviceKind::automatic;  // not emulated
  std::filesystem::path out = "machine.yaml";
  std::vector<std::filesystem::path> nvme_paths;
  bool force = false;  // measure although the cache has it
  bool quick = false;
};

// Steps of a profile before the first that is measured.
inline constexpr int64_t kProfileWarmUpSteps = 2;

struct ProfileOptions {
  int64_t steps = 5;              // measured
  bool json = false;              // print JSON
  std::filesystem::path report;   // HTML file to write; empty: none
  std::filesystem::path trace;    // as TrainOptions'
  bool ends_with_parent = false;  // a study's: stops when the study is killed
};

struct GenerateOptions {
  std::filesystem::path model;
  std::filesystem::path adapter;  // empty: none
  std::string prompt;
  bool raw = false;    // the prompt is text as it stands, not a chat turn
  std::string system;  // of the chat; empty: none
  int64_t max_new_tokens = 256;
  double temperature = 0;  // 0: greedy
  double top_p = 1;        // 1: all
  int64_t top_k = 0;       // 0: all
  uint64_t seed = 42;
  std::filesystem::path logits;  // safetensors file for the prompt's logits; empty: answer
};

struct MergeOptions {
  std::filesystem::path adapter, out;
  std::filesystem::path model;  // the base; empty: the one that the adapter names
  std::optional<Dtype> dtype;   // of the written weights; none: as the base has them
};

// Every function returns the exit code, or throws SetupError (2), RunError (3) or anything else (3).
struct EntryTable {
  const char* version;    // of the project; must equal the binary's
  uint64_t config_bytes;  // sizeof(Config): a library left over from another build is noticed
  int (*train)(const Config&, const TrainOptions&);
  int (*plan)(const Config&, const PlanOptions&);
  int (*generate)(const GenerateOptions&);
  int (*probe)(const ProbeOptions&);
  int (*merge)(const MergeOptions&);
  // Opens the GPU as a job does and gives its name. Throws SetupError: why none can be used.
  std::string (*open_gpu)();
  int (*profile)(const Config&, const ProfileOptions&);
};

inline constexpr const char* kRuntimeLibrary = "libsluice_runtime.so";
inline constexpr const char* kEntrySymbol = "sluice_runtime_entry";
using EntryFunction = const EntryTable* (*)();

}  // namespace sluice::train

extern "C" __attribute__((visibility("default"))) const sluice::train::EntryTable* sluice_runtime_entry();
