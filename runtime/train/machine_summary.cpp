#include "runtime/train/machine_summary.h"

#include <cstdio>

#include "runtime/train/machine_file.h"
#include "runtime/train/machine_units.h"

namespace sluice::train {
namespace {

std::string rate(BytesPerSecond rate) { return short_text_of(kRate, rate.count); }
std::string flops(double rate) { return short_text_of(kFlopsRate, rate); }

std::string percent(double share) {
  char text[16];
  std::snprintf(text, sizeof text, "%.0f %%", share * 100);
  return text;
}

class Table {
 public:
  void heading(const std::string& text) { text_ += text + "\n"; }
  void row(std::initializer_list<std::string> cells) {
    static constexpr size_t kWidths[] = {24, 16, 16, 16};
    std::string line = "  ";
    size_t column = 0;
    for (const std::string& cell : cells) {
      const size_t width = column < std::size(kWidths) ? kWidths[column++] : 0;
      line += cell + std::string(cell.size() < width ? width - cell.size() : 1, ' ');
    }
    text_ += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  std::string text() const { return text_; }

 private:
  std::string text_;
};

void add_compute(Table& table, const plan::Machine& machine) {
  table.heading("compute                   rate            error (median)  error (worst), on shapes not fitted to");
  for (const auto& [dtype, model] : machine.gemm)
    table.row({"products, " + std::string(name_of(dtype)), flops(model.flops_per_second), percent(model.error_median),
               percent(model.error_worst)});
  for (const auto& [dtype, model] : machine.attention) {
    const std::string what = "attention, " + std::string(name_of(dtype));
    table.row({what, flops(model.forward_flops_per_second), percent(model.error_median), percent(model.error_worst)});
    table.row({"  backward", flops(model.backward_flops_per_second)});
  }
  table.row({"row kernels", rate(machine.device_memory)});
}

void add_drives(Table& table, const plan::Machine& machine) {
  table.heading("drives                    read            write           both            requests");
  const auto add = [&](const std::string& name, const plan::DriveRate& best) {
    table.row({name, rate(best.read), rate(best.write), rate(best.both),
               to_string(Bytes{best.request_bytes}) + ", " + std::to_string(best.depth) + " in flight"});
  };
  for (const plan::Drive& drive : machine.drives) add(drive.path, plan::best_rate(drive.rates));
  add("all, over seconds", machine.all_drives);
}

}  // namespace

std::string machine_summary(const plan::Machine& machine) {
  Table table;
  table.heading(machine.name + ", " + to_string(machine.host_bytes) + " of RAM, " +
                (machine.device_bytes.count > 0 ? to_string(machine.device_bytes) + " of GPU memory"
                                                : "no GPU: compute is the processor's"));
  add_compute(table, machine);
  table.heading("memory                    rate");
  table.row({"DRAM", rate(machine.dram)});
  const char* copies = machine.device_bytes.count > 0 ? "" : "copies are the memcpy of the emulated device";
  table.row({"h2d, d2h, both", rate(machine.h2d), rate(machine.d2h), rate(machine.copies_both), copies});
  add_drives(table, machine);
  table.heading("AdamW                     alone           beside compute  compute keeps");
  for (const plan::OptimizerRate& update : machine.optimizer)
    table.row({std::to_string(update.threads) + (update.threads == 1 ? " thread" : " threads"), rate(update.alone),
               rate(update.beside_compute), percent(update.compute_left)});
  return table.text();
}

}  // namespace sluice::train
