// The Markdown tables of literature_tables, on standard output.
#pragma once

#include "bench/literature/calibration.h"

namespace sluice::literature {

// The published figures, simulated with the machine file as it is and as calibrated.
void print_calibration(const Fuyou& policy, const plan::Machine& file, const plan::Machine& calibrated);
// Ours at the batches of the published figures, in tokens per second, beside them.
void print_against_published(const plan::Machine& machine);
// Every policy at its best batch, by RAM and number of drives; ours with moments in that format.
void print_comparison(const DenseModel& model, const Fuyou& policy, const plan::Machine& machine, StateFormat states);
// What our smallest arrangement takes of the device, with one micro-batch and with several.
void print_device_room(const plan::Machine& machine);

}  // namespace sluice::literature
