// adamw_step FILE LR BETA1 BETA2 EPS DECAY STEP: FILE holds p, g, m, v as fp32; p, m, v are updated in place.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "optim/adamw.h"

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  std::fstream file(argv[1], std::ios::in | std::ios::out | std::ios::binary | std::ios::ate);
  std::vector<float> data(static_cast<size_t>(file.tellg()) / sizeof(float));
  const auto bytes = static_cast<std::streamsize>(data.size() * sizeof(float));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(data.data()), bytes);
  const size_t n = data.size() / 4;
  const auto part = [&](size_t i) { return std::span(data).subspan(i * n, n); };
  const sluice::optim::AdamWSettings settings{std::atof(argv[2]), std::atof(argv[3]), std::atof(argv[4]),
                                              std::atof(argv[5]), std::atof(argv[6]), std::atoll(argv[7]), 1};
  sluice::optim::adamw_f32(sluice::optim::best_isa(), settings, part(0), {part(1), {}}, part(2), part(3));
  file.seekp(0);
  file.write(reinterpret_cast<const char*>(data.data()), bytes);
  return file ? 0 : 1;
}
