#include <sstream>

#include "runtime/core/result.h"
#include "runtime/train/durable_folders.h"
#include "runtime/train/machine_file.h"
#include "runtime/train/machine_units.h"

namespace sluice::train {
namespace {

std::string rate_text(BytesPerSecond rate) { return text_of(kRate, rate.count); }

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + "\"";
}

void write_errors(std::ostream& out, double median, double worst) {
  if (worst > 0) out << ", error_median: " << text_of(kShare, median) << ", error_worst: " << text_of(kShare, worst);
}

void write_compute(std::ostream& out, const plan::Machine& machine) {
  out << "\n# A product [m, k] x [k, n] takes overhead + 2 m n k / rate, divided by m / (m + m_half) and so on.\n"
         "# Errors: relative, on shapes that were held out of the fit.\ngemm:\n";
  for (const auto& [dtype, model] : machine.gemm) {
    out << "  " << name_of(dtype) << ": {rate: " << text_of(kFlopsRate, model.flops_per_second)
        << ", m_half: " << digits(model.m_half) << ", n_half: " << digits(model.n_half)
        << ", k_half: " << digits(model.k_half) << ", overhead: " << text_of(kTime, model.overhead.count);
    write_errors(out, model.error_median, model.error_worst);
    out << "}\n";
  }
  out << "# Causal attention over a document of length L with D per head takes overhead + 2 heads D L^2 / rate, "
         "divided by\n"
         "# L / (L + length_half) and D / (D + head_dim_half); backward has 2.5 times the FLOPs.\nattention:\n";
  for (const auto& [dtype, model] : machine.attention) {
    out << "  " << name_of(dtype) << ": {forward: " << text_of(kFlopsRate, model.forward_flops_per_second)
        << ", backward: " << text_of(kFlopsRate, model.backward_flops_per_second)
        << ", length_half: " << digits(model.length_half)
        << ", backward_length_half: " << digits(model.backward_length_half)
        << ", head_dim_half: " << digits(model.head_dim_half) << ", overhead: " << text_of(kTime, model.overhead.count);
    write_errors(out, model.error_median, model.error_worst);
    out << "}\n";
  }
}

void write_drive_rate(std::ostream& out, const plan::DriveRate& rate) {
  out << "{request: " << text_of(kBytes, static_cast<double>(rate.request_bytes)) << ", depth: " << rate.depth
      << ", read: " << rate_text(rate.read) << ", write: " << rate_text(rate.write)
      << ", both: " << rate_text(rate.both) << "}\n";
}

void write_drives(std::ostream& out, const plan::Machine& machine) {
  out << "\n# both: read + written, half of it each way.\ndrives:\n";
  for (const plan::Drive& drive : machine.drives) {
    out << "  - path: " << quoted(drive.path) << "\n";
    if (drive.rated_tbw > 0) out << "    rated_tbw: " << text_of(kEndurance, drive.rated_tbw) << "\n";
    if (drive.page_cache)
      out << "    page_cache: true  # O_DIRECT is refused there: these are the rates of the page cache\n";
    if (drive.spinning) out << "    spinning: true  # says the kernel; a virtual disk may say anything\n";
    out << "    rates:\n";
    for (const plan::DriveRate& rate : drive.rates) {
      out << "      - ";
      write_drive_rate(out, rate);
    }
  }
  out << "# Striped, over seconds rather than a fraction of one. Without this line: the sum of each drive's best, "
         "within "
         "drives_at_most.\n"
         "all_drives: ";
  write_drive_rate(out, machine.all_drives);
  if (const plan::DriveRate& limit = machine.drives_at_most; limit.read.count > 0)
    out << "drives_at_most: {read: " << rate_text(limit.read) << ", write: " << rate_text(limit.write)
        << ", both: " << rate_text(limit.both) << "}\n";
}

void write_beside(std::ostream& out, const plan::Machine& machine) {
  out << "\n# The share of its rate that a lane keeps while another is busy too. Not listed: all of it.\nbeside:";
  bool any = false;
  for (size_t row = 0; row < kLaneCount; ++row) {
    std::string line;
    for (size_t column = 0; column < kLaneCount; ++column)
      if (machine.beside[row][column] != 1)
        line += (line.empty() ? "" : ", ") + std::string(name_of(static_cast<Lane>(column))) + ": " +
                digits(machine.beside[row][column]);
    if (line.empty()) continue;
    out << "\n  " << name_of(static_cast<Lane>(row)) << ": {" << line << "}";
    any = true;
  }
  out << (any ? "\n" : " {}\n");
}

}  // namespace

std::string machine_text(const plan::Machine& machine) {
  std::ostringstream out;
  out << "# What this machine can do, for `sluice plan JOB.yaml --machine FILE`. Written by `sluice probe`.\n"
      << "name: " << quoted(machine.name) << "\n";
  if (!machine.fingerprint.empty()) out << "fingerprint: " << quoted(machine.fingerprint) << "\n";
  if (!machine.measured.empty()) out << "measured: " << quoted(machine.measured) << "\n";
  out << "cores: " << machine.cores << "\n"
      << "host_memory: " << text_of(kBytes, static_cast<double>(machine.host_bytes.count)) << "\n";
  if (machine.device_bytes.count > 0)
    out << "device_memory: " << text_of(kBytes, static_cast<double>(machine.device_bytes.count)) << "\n";
  write_compute(out, machine);
  out << "\n# Elementwise and row kernels of the device, read + written; DRAM from the host's threads; copies"
      << (machine.device_bytes.count > 0 ? ".\n" : ": no GPU,\n# so that they are the memcpy of the emulated device.\n")
      << "device_stream: " << rate_text(machine.device_memory) << "\n"
      << "dram: " << rate_text(machine.dram) << "\n"
      << "h2d: " << rate_text(machine.h2d) << "\n"
      << "d2h: " << rate_text(machine.d2h) << "\n"
      << "copies_both: " << rate_text(machine.copies_both) << "\n";
  write_drives(out, machine);
  out << "\n# AdamW: bytes that it reads and writes; compute_left: the share of its rate that compute keeps "
         "meanwhile.\n"
         "optimizer:\n";
  for (const plan::OptimizerRate& rate : machine.optimizer)
    out << "  - {threads: " << rate.threads << ", alone: " << rate_text(rate.alone)
        << ", beside_compute: " << rate_text(rate.beside_compute) << ", compute_left: " << digits(rate.compute_left)
        << "}\n";
  write_beside(out, machine);
  return out.str();
}

void write_machine(const plan::Machine& machine, const std::filesystem::path& file) {
  try {
    replace_file(file, machine_text(machine));
  } catch (const RunError& failure) {
    throw SetupError("cannot write " + file.string() + ": " + failure.error().message,
                     "give --out a file in a folder that exists, that you may write to and that has space");
  }
}

}  // namespace sluice::train
