// adamw_step FILE LR BETA1 BETA2 EPS DECAY STEP: FILE holds p, g, m, v as fp32, one after the other; p, m, v are
// updated in place by the instruction set that a training run would choose.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "optim/adamw.h"

int main(int argc, char** argv) {
  if (argc != 8) {
    std::fprintf(stderr, "usage: adamw_step FILE LR BETA1 BETA2 EPS DECAY STEP\n");
    return 2;
  }
  std::fstream file(argv[1], std::ios::in | std::ios::out | std::ios::binary | std::ios::ate);
  if (!file) {
    std::fprintf(stderr, "adamw_step: cannot open %s\n", argv[1]);
    return 2;
  }
  std::vector<float> data(static_cast<size_t>(file.tellg()) / sizeof(float));
  const auto bytes = static_cast<std::streamsize>(data.size() * sizeof(float));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(data.data()), bytes);
  const size_t count = data.size() / 4;
  const auto part = [&](size_t i) { return std::span(data).subspan(i * count, count); };
  const sluice::optim::AdamWSettings settings{.learning_rate = std::atof(argv[2]),
                                              .beta1 = std::atof(argv[3]),
                                              .beta2 = std::atof(argv[4]),
                                              .epsilon = std::atof(argv[5]),
                                              .weight_decay = std::atof(argv[6]),
                                              .step = std::atoll(argv[7])};
  sluice::optim::adamw_f32(sluice::optim::best_isa(), settings, part(0), {.f32 = part(1), .bf16 = {}}, part(2),
                           part(3));
  file.seekp(0);
  file.write(reinterpret_cast<const char*>(data.data()), bytes);
  return file.flush() ? 0 : 1;
}
