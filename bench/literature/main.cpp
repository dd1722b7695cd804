// literature_tables MACHINE_FILE [MODEL...]: peers' policies and ours, simulated on the machine that Fuyou was measured
// on, as Markdown. First what is calibrated and how far off the rest is, then a table for each model (all when none is
// named). Nothing runs on such a machine here.
#include <cstdio>
#include <exception>
#include <span>
#include <string>

#include "bench/literature/calibration.h"
#include "bench/literature/tables.h"
#include "runtime/core/result.h"
#include "runtime/train/machine_file.h"

namespace {

using namespace sluice;
using namespace sluice::literature;

void run(std::span<char*> arguments) {
  if (arguments.size() < 2) throw SetupError("no machine file", "literature_tables configs/machine/fuyou_768g.yaml");
  // One piece of state is read, updated and written before the next is read: the depth that fits the figures best.
  const Fuyou policy{1};
  const plan::Machine file = train::read_machine(arguments[1]);
  const Calibration calibration = calibrate(policy, file);
  const plan::Machine machine = calibrated(file, calibration);
  if (arguments.size() == 2) {
    print_calibration(policy, file, machine);
    for (const DenseModel& model : dense_models()) print_comparison(model, policy, machine);
    print_device_room(machine);
  }
  for (const char* name : arguments.subspan(2)) {
    if (std::string(name) == "calibration") {
      print_calibration(policy, file, machine);
    } else if (std::string(name) == "room") {
      print_device_room(machine);
    } else {
      print_comparison(dense_model(name), policy, machine);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run({argv, static_cast<size_t>(argc)});
  } catch (const SetupError& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
  return 0;
}
