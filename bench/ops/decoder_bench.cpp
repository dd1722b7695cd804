// decoder_bench: forward and backward of every block of the SmolLM2-135M shape in memory, tokens/s and FLOP/s.
//
//   build/release/decoder_bench
//   OMP_NUM_THREADS=1 build/release/decoder_bench   CPU time is then undisturbed by neighbours
//
// Arguments: sequences of 512 tokens in the micro-batch; LoRA rank on all projections, 0: all parameters train;
// 1 when every slot is kept, 0 when all are recomputed.
#include <benchmark/benchmark.h>

#include <cmath>

#include "bench/ops/memory_model.h"

namespace sluice::bench {
namespace {

constexpr int64_t kSequenceTokens = 512;

std::optional<models::AdapterSpec> adapter_of(const models::DecoderSpec& spec, int64_t rank) {
  if (rank == 0) return std::nullopt;
  return models::AdapterSpec{rank, 2.0 * static_cast<double>(rank), 0, models::resolve_lora_targets(spec, {}, true)};
}

void decoder(benchmark::State& state, Dtype dtype) {
  const models::DecoderSpec spec = smollm2_135m();
  MemoryModel model(spec, adapter_of(spec, state.range(1)), dtype, state.range(0), kSequenceTokens,
                    state.range(2) != 0 ? Keep::all_slots : Keep::no_slots);
  for (auto _ : state) {
    if (!std::isfinite(model.run())) state.SkipWithError("the loss is not finite");
  }
  const auto runs = static_cast<double>(state.iterations());
  using benchmark::Counter;
  state.counters["tokens/s"] = Counter(runs * static_cast<double>(model.tokens()), Counter::kIsRate);
  state.counters["FLOP/s"] = Counter(runs * model.flops(), Counter::kIsRate);
  state.counters["workspace_MB"] = static_cast<double>(model.workspace_bytes()) * 1e-6;
}
BENCHMARK_CAPTURE(decoder, bf16, Dtype::bf16)
    ->ArgNames({"sequences", "rank", "kept"})
    ->Args({1, 0, 1})
    ->Args({2, 0, 1})
    ->Args({2, 0, 0})
    ->Args({2, 16, 1})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decoder, f16, Dtype::f16)
    ->ArgNames({"sequences", "rank", "kept"})
    ->Args({1, 0, 1})
    ->Args({2, 16, 1})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decoder, f32, Dtype::f32)
    ->ArgNames({"sequences", "rank", "kept"})
    ->Args({1, 0, 1})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sluice::bench
