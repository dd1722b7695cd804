#include "runtime/exec/probe_loads.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "optim/adamw.h"
#include "runtime/core/result.h"

namespace sluice::exec {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Counts until `stop` says so, asked after every piece.
template <class Stop>
double count_pace(Load& load, const Stop& stop) {
  const auto begin = Clock::now();
  const double first = load.work();
  const double first_end = since(begin);
  double done = 0, end = first_end;
  while (!stop()) {
    done += load.work();
    end = since(begin);
  }
  // A load so slow that nothing more ended: its begin counts too.
  return done > 0 ? done / (end - first_end) : first / first_end;
}

}  // namespace

double pace_of(Load& load, double seconds) {
  const auto begin = Clock::now();
  const double pace = count_pace(load, [&] { return since(begin) >= seconds; });
  load.rest();
  return pace;
}

Paces paces_together(Load& first, Load& second, double seconds) {
  // Each looks at the clock itself: under a real-time policy nobody else might get a processor to stop them.
  const auto begin = Clock::now();
  const auto over = [&] { return since(begin) >= seconds; };
  Paces paces;
  std::exception_ptr failed;
  std::thread other([&] {
    try {
      paces.second = count_pace(second, over);
      second.rest();
    } catch (...) {
      failed = std::current_exception();
    }
  });
  try {
    paces.first = count_pace(first, over);
    first.rest();
  } catch (...) {
    other.join();
    throw;
  }
  other.join();
  if (failed) std::rethrow_exception(failed);
  return paces;
}

double share_kept(double beside, double alone) {
  constexpr double kShareMin = 1e-3;  // a share of nothing would never end
  return std::clamp(beside / alone, kShareMin, 1.0);
}

Paces shares_kept(Load& first, Load& second, double seconds) {
  const double alone = seconds / 4;
  Paces before{pace_of(first, alone), pace_of(second, alone)};
  const Paces together = paces_together(first, second, seconds / 2);
  const Paces after{pace_of(first, alone), pace_of(second, alone)};
  return {share_kept(together.first, std::max(before.first, after.first)),
          share_kept(together.second, std::max(before.second, after.second))};
}

void run_on(optim::WorkerPool& pool, int64_t elements, int64_t grain,
            const std::function<void(int64_t, int64_t)>& body) {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  pool.submit(elements, grain, body, [&] {
    const std::lock_guard lock(mutex);
    done = true;
    changed.notify_one();
  });
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return done; });
}

// --- optimizer ----------------------------------------------------------------------------------------------------

OptimizerLoad::OptimizerLoad(int threads, std::span<std::byte> memory, UpdateKind kind)
    : pool_(threads), kind_(std::move(kind)) {
  constexpr int64_t kElementsMost = MiB(4).count;
  const int64_t all = std::min(static_cast<int64_t>(memory.size()), kBytesMost.count);
  const int64_t most = all / bytes_of(kind_, kStateChunkStep).count * kStateChunkStep;
  const int64_t elements = std::min(kElementsMost, most);
  SLUICE_CHECK(elements > 0, "the optimizer load needs its memory");
  std::fill_n(reinterpret_cast<float*>(memory.data()), all / static_cast<int64_t>(sizeof(float)), 1e-3f);
  const int64_t chunk = bytes_of(kind_, elements).count;
  for (int64_t at = 0; at + chunk <= all; at += chunk)
    chunks_.push_back(lay_out_chunk(kind_, elements, memory.data() + at));
  bytes_moved_ = bytes_moved(kind_, elements).count;
}

double OptimizerLoad::work() {
  constexpr int64_t kGrain = 1 << 16;
  const GroupChunk& chunk = chunks_[next_];
  run_on(pool_, chunk.elements, kGrain,
         [&](int64_t first, int64_t last) { update_range(chunk, first, last, {.learning_rate = 1e-3}); });
  next_ = (next_ + 1) % chunks_.size();
  return static_cast<double>(bytes_moved_);
}

// --- copies -------------------------------------------------------------------------------------------------------

double CopyLoad::work() {
  const size_t half = memory_.size() / 2;
  std::memcpy(memory_.data(), memory_.data() + half, half);
  return static_cast<double>(half);
}

// --- drives -------------------------------------------------------------------------------------------------------

DriveLoad::DriveLoad(swap::SwapEngine& engine, std::span<std::byte> memory, Options options)
    : engine_(engine),
      memory_(memory),
      options_(std::move(options)),
      requests_(static_cast<size_t>(options_.depth)),
      busy_(options_.extents.size()) {
  SLUICE_CHECK(static_cast<int64_t>(memory_.size()) >= options_.depth * options_.request_bytes,
               "the drive load needs its memory");
  SLUICE_CHECK(static_cast<int>(options_.extents.size()) >= 2 * options_.depth, "too few extents for this depth");
}

DriveLoad::~DriveLoad() {
  // Memory belongs to the engine until the last completion, whatever went wrong.
  while (in_flight_ > 0) in_flight_ -= static_cast<int>(engine_.wait(std::chrono::seconds(1)).size());
}

bool DriveLoad::next_is_write() const {
  if (options_.mode == DriveMode::both) return issued_[1] < issued_[0];
  return options_.mode == DriveMode::write;
}

void DriveLoad::start(size_t place) {
  while (busy_[next_extent_]) next_extent_ = (next_extent_ + 1) % busy_.size();
  Request& request = requests_[place];
  request = {next_extent_, next_is_write()};
  busy_[request.extent] = 1;
  next_extent_ = (next_extent_ + 1) % busy_.size();
  ++issued_[request.write];
  ++in_flight_;
  const auto size = static_cast<size_t>(options_.request_bytes);
  const std::span<std::byte> at = memory_.subspan(place * size, size);
  const swap::ExtentId extent = options_.extents[request.extent];
  request.write ? engine_.write(extent, at, place) : engine_.read(extent, at, place);
}

double DriveLoad::take(const std::vector<swap::Completion>& completions, bool go_on) {
  double bytes = 0;
  std::optional<Error> failure;  // thrown when all of them are accounted for
  for (const swap::Completion& completion : completions) {
    const Request& request = requests_[completion.token];
    --in_flight_;
    busy_[request.extent] = 0;
    if (!completion.result.ok()) failure = completion.result.error();
    bytes += static_cast<double>(options_.request_bytes);
    if (go_on && !failure) start(completion.token);
  }
  if (failure) throw RunError(*failure);
  return bytes;
}

double DriveLoad::work() {
  for (size_t place = 0; in_flight_ < options_.depth; ++place) start(place);
  double bytes = 0;
  while (bytes == 0) bytes = take(engine_.wait(std::chrono::seconds(1)), true);
  return bytes;
}

void DriveLoad::rest() {
  while (in_flight_ > 0) take(engine_.wait(std::chrono::seconds(1)), false);
}

std::vector<swap::ExtentId> make_extents(swap::SwapEngine& engine, std::span<std::byte> memory, int64_t request_bytes,
                                         int64_t count) {
  const auto size = static_cast<size_t>(request_bytes);
  const size_t places = std::min<size_t>({memory.size() / size, static_cast<size_t>(count), 16});
  std::vector<swap::ExtentId> extents;
  for (int64_t i = 0; i < count; ++i) extents.push_back(engine.create_extent(Bytes{request_bytes}, "probe"));
  size_t started = 0, finished = 0;
  const auto start = [&](size_t place) { engine.write(extents[started++], memory.subspan(place * size, size), place); };
  for (size_t place = 0; place < places; ++place) start(place);
  std::optional<Error> failure;
  while (finished < started)
    for (const swap::Completion& done : engine.wait(std::chrono::seconds(1))) {
      ++finished;
      if (!done.result.ok()) failure = done.result.error();
      if (!failure && started < extents.size()) start(done.token);
    }
  if (failure) throw RunError(*failure);
  return extents;
}

}  // namespace sluice::exec
