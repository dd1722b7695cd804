#include "swap/swap_engine.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <future>
#include <mutex>
#include <thread>

#include "swap/extent_table.h"
#include "swap/io_backend.h"
#include "swap/io_error.h"

namespace sluice::swap {
namespace {

constexpr int64_t kBlockBytes = 4096;
// EINTR and EAGAIN in a row before a request is given up.
constexpr int kRetriesMax = 1000;

struct Source {
  std::filesystem::path path;
  int fd = -1;
  int64_t bytes = 0;
};

// What the caller asked for; ends when all its parts have.
struct Transfer {
  uint64_t token = 0;
  int64_t parts_left = 0;
  Result<void> result;
};

// One range of one file, moved by one or more requests.
struct Part {
  std::shared_ptr<Transfer> transfer;
  Direction direction = Direction::read;
  int fd = -1;
  const std::filesystem::path* file = nullptr;
  int64_t offset = 0;
  std::byte* memory = nullptr;
  int64_t bytes = 0;  // wanted; a source's last block may hold fewer
  int64_t asked = 0;  // what requests may ask for: whole blocks
  int64_t moved = 0;
  int retries = 0;
  Piece* piece = nullptr;  // checked and recorded; null for sources
};

int open_source_file(const std::filesystem::path& file) {
  int fd = open(file.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (fd < 0 && errno == EINVAL) fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    throw SetupError("cannot open " + file.string() + ": " + std::strerror(errno),
                     "check the path and its permissions");
  return fd;
}

SwapOptions in_whole_blocks(SwapOptions options) {
  options.request_bytes = Bytes{std::clamp(round_down(options.request_bytes.count, kBlockBytes), kBlockBytes,
                                           round_down(kRequestBytesMax, kBlockBytes))};
  return options;
}

}  // namespace

struct SwapEngine::Impl {
  Impl(const SwapOptions& options_in, const WrapBackend& wrap)
      : options(in_whole_blocks(options_in)), extents(options), space_wait(options_in.patience) {
    for (int path = 0; path < extents.paths(); ++path)
      if (!extents.file(path).direct())
        warnings.push_back(
            extents.file(path).path().string() +
            ": the file system refuses O_DIRECT, so swap goes through the page cache; use an ext4 or xfs drive");
    depth = options.queue_depth * extents.paths();
    backend = wrap(make_backend());
    completion_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (completion_fd < 0) throw SetupError("no file descriptor left", "raise `ulimit -n`");
    io_thread = std::thread([this] { run(); });
    pthread_setname_np(io_thread.native_handle(), "io");
  }

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stopping = impatient = true;
    }
    wake_io_thread();
    io_thread.join();
    for (const Source& source : sources) close(source.fd);
    close(completion_fd);
    extents.leave_files();
  }

  std::unique_ptr<IoBackend> make_backend() {
    if (options.backend != BackendKind::thread) {
      Result<std::unique_ptr<IoBackend>> ring = make_uring_backend(depth);
      kind = BackendKind::uring;
      if (ring.ok()) return std::move(ring.value());
      if (options.backend == BackendKind::uring) throw SetupError(ring.error());
      warnings.push_back(ring.error().message + ", so I/O runs on threads; " + ring.error().hint);
    }
    kind = BackendKind::thread;
    return make_thread_backend(depth);
  }

  // --- the caller's side ---------------------------------------------------------------------------------------

  void send(std::vector<Part> parts) {
    {
      const std::lock_guard lock(mutex);
      for (Part& part : parts) inbox.push_back(std::move(part));
    }
    wake_io_thread();
  }

  // It waits for the backend, or for room on a drive.
  void wake_io_thread() {
    arrived.notify_one();
    backend->wake();
  }

  // The answer of a function that runs on the io thread, where the backend and what is in flight may be looked at.
  template <class Question>
  auto ask_io_thread(Question question) {
    const auto answer = std::make_shared<std::promise<decltype(question())>>();
    {
      const std::lock_guard lock(mutex);
      errands.push_back([answer, question = std::move(question)] { answer->set_value(question()); });
    }
    wake_io_thread();
    return answer->get_future();
  }

  void stop_waiting_for_space() {
    {
      const std::lock_guard lock(mutex);
      impatient = true;
    }
    wake_io_thread();
  }

  void transfer(Direction direction, ExtentId id, std::span<std::byte> memory, uint64_t token) {
    SLUICE_CHECK(reinterpret_cast<uintptr_t>(memory.data()) % kBlockBytes == 0, "memory must be 4096-byte aligned");
    SLUICE_CHECK(static_cast<int64_t>(memory.size()) >= round_up(extents.bytes(id), kBlockBytes),
                 "memory is shorter than the extent");
    const std::span<Piece> pieces = direction == Direction::write ? extents.begin_write(id) : extents.begin_read(id);
    const auto whole = std::make_shared<Transfer>();
    whole->token = token;
    whole->parts_left = static_cast<int64_t>(pieces.size());
    std::vector<Part> parts;
    std::byte* at = memory.data();
    for (Piece& piece : pieces) {
      const SwapFile& file = extents.file(piece.path);
      parts.push_back(
          {whole, direction, file.fd(), &file.path(), piece.offset, at, piece.bytes, piece.bytes, 0, 0, &piece});
      at += piece.bytes;
    }
    send(std::move(parts));
  }

  void read_source(SourceId id, int64_t offset, int64_t bytes, std::span<std::byte> memory, uint64_t token) {
    const Source& source = sources[static_cast<size_t>(id)];
    const int64_t begin = round_down(offset, kBlockBytes), end = round_up(offset + bytes, kBlockBytes);
    SLUICE_CHECK(reinterpret_cast<uintptr_t>(memory.data()) % kBlockBytes == 0, "memory must be 4096-byte aligned");
    SLUICE_CHECK(static_cast<int64_t>(memory.size()) >= end - begin, "memory is shorter than the aligned range");
    SLUICE_CHECK(offset >= 0 && bytes > 0 && offset + bytes <= source.bytes,
                 "a read past the end of " + source.path.string());
    const auto whole = std::make_shared<Transfer>();
    whole->token = token;
    std::vector<Part> parts;
    for (int64_t at = begin; at < end; at += options.request_bytes.count) {
      const int64_t asked = std::min(options.request_bytes.count, end - at);
      parts.push_back({whole, Direction::read, source.fd, &source.path, at, memory.data() + (at - begin),
                       std::min(asked, source.bytes - at), asked, 0, 0, nullptr});
    }
    whole->parts_left = static_cast<int64_t>(parts.size());
    send(std::move(parts));
  }

  std::vector<Completion> poll() {
    uint64_t count;
    ssize_t got;
    do got = ::read(completion_fd, &count, sizeof count);
    while (got < 0 && errno == EINTR);
    const std::lock_guard lock(mutex);
    return std::exchange(completions, {});
  }

  // --- the io thread -------------------------------------------------------------------------------------------

  void run() {
    for (;;) {
      if (!take_inbox()) return;
      submit_waiting();
      if (in_flight() == 0 && !without_space.empty()) {
        wait_for_space();
      } else {
        for (const IoOutcome& outcome : backend->reap()) finish_request(outcome);
      }
      deliver();
    }
  }

  // False when all is done and the engine is going away.
  bool take_inbox() {
    const std::lock_guard lock(mutex);
    for (Part& part : inbox) waiting[static_cast<size_t>(part.direction)].push_back(std::move(part));
    inbox.clear();
    for (const auto& errand : errands) errand();
    errands.clear();
    return !(stopping && in_flight() == 0 && waiting[0].empty() && waiting[1].empty() && without_space.empty());
  }

  int in_flight() const { return active[0] + active[1]; }

  // Reads and writes share the depth evenly while both wait: neither starves behind the other's queue.
  void submit_waiting() {
    std::vector<IoRequest> batch;
    std::vector<size_t> slots;
    while (in_flight() < depth) {
      const bool reads = !waiting[0].empty(), writes = !waiting[1].empty() && without_space.empty();
      if (!reads && !writes) break;
      const size_t direction = !reads ? 1 : !writes ? 0 : (active[0] <= active[1] ? 0 : 1);
      slots.push_back(start(direction));
      batch.push_back(request_of(slots.back()));
    }
    const size_t taken = batch.empty() ? 0 : backend->submit(batch);
    for (size_t i = batch.size(); i-- > taken;) put_back(slots[i]);
  }

  size_t start(size_t direction) {
    size_t slot = free_slots.empty() ? running.size() : free_slots.back();
    if (free_slots.empty()) {
      running.emplace_back();
    } else {
      free_slots.pop_back();
    }
    running[slot] = std::move(waiting[direction].front());
    waiting[direction].pop_front();
    ++active[direction];
    Part& part = running[slot];
    if (part.direction == Direction::write && part.piece != nullptr && part.moved == 0)
      part.piece->checksum = XXH3_64bits(part.memory, static_cast<size_t>(part.bytes));
    return slot;
  }
  void put_back(size_t slot) {
    const auto direction = static_cast<size_t>(running[slot].direction);
    waiting[direction].push_front(std::move(running[slot]));
    --active[direction];
    free_slots.push_back(slot);
  }

  IoRequest request_of(size_t slot) {
    const Part& part = running[slot];
    ++requests;
    return {part.fd, part.direction, part.offset + part.moved, part.memory + part.moved, part.asked - part.moved, slot};
  }

  void finish_request(const IoOutcome& outcome) {
    const size_t slot = outcome.user;
    Part part = std::move(running[slot]);
    --active[static_cast<size_t>(part.direction)];
    free_slots.push_back(slot);
    if (part.direction == Direction::write && outcome.result < 0 && is_no_space(static_cast<int>(-outcome.result))) {
      without_space.push_back(std::move(part));
      return;
    }
    const bool transient = outcome.result == -EINTR || outcome.result == -EAGAIN;
    if (outcome.result < 0 && !(transient && part.retries < kRetriesMax)) {
      end_part(part, io_error(part.direction, *part.file, part.offset + part.moved, part.asked - part.moved,
                              static_cast<int>(-outcome.result)));
      return;
    }
    if (outcome.result == 0) {
      end_part(part, Error{ErrorCode::io,
                           part.file->string() + " ends at " + std::to_string(part.offset + part.moved) + ", " +
                               std::to_string(part.bytes - part.moved) + " bytes short",
                           "the file was cut while in use: restore it and resume"});
      return;
    }
    if (outcome.result > 0) {
      part.retries = 0;
      part.moved += outcome.result;
      if (part.direction == Direction::write && without_space.empty()) space_wait.made_room();
      (part.direction == Direction::read ? read_bytes : write_bytes) += outcome.result;
      if (part.moved >= part.bytes) {
        end_part(part, check(part));
        return;
      }
      // O_DIRECT goes on at a block's begin.
      part.moved = round_down(part.moved, kBlockBytes);
    } else {
      ++part.retries;
    }
    ++resubmitted;
    waiting[static_cast<size_t>(part.direction)].push_front(std::move(part));
  }

  // Nothing is in flight, and the drive of the writes in `without_space` is full. Waits, unless something else is to be
  // done, and lets them try again when it is time.
  void wait_for_space() {
    const Part& first = without_space.front();
    if (!retry_at && !gives_up()) {
      if (const std::optional<Error> refused = space_wait.refused(*first.file, Bytes{bytes_without_space(*first.file)}))
        return end_without_space(*refused);
      retry_at = space_wait.retry_at();
    }
    if (gives_up())
      return end_without_space(
          io_error(first.direction, *first.file, first.offset + first.moved, first.asked - first.moved, ENOSPC));
    std::unique_lock lock(mutex);
    const auto look_at = std::min(*retry_at, SpaceWait::Clock::now() + SpaceWait::kLook);
    if (arrived.wait_until(lock, look_at, [this] { return impatient || !inbox.empty() || !errands.empty(); })) return;
    lock.unlock();
    if (const std::optional<Error> stopped = space_wait.stopped(*first.file, Bytes{bytes_without_space(*first.file)}))
      return end_without_space(*stopped);
    if (SpaceWait::Clock::now() < *retry_at) return;
    retry_at.reset();
    for (; !without_space.empty(); without_space.pop_back())
      waiting[static_cast<size_t>(Direction::write)].push_front(std::move(without_space.back()));
  }
  bool gives_up() {
    const std::lock_guard lock(mutex);
    return impatient;
  }
  int64_t bytes_without_space(const std::filesystem::path& file) const {
    int64_t sum = 0;
    for (const std::deque<Part>* parts : {&without_space, &waiting[static_cast<size_t>(Direction::write)]})
      for (const Part& part : *parts)
        if (part.file == &file) sum += part.asked - part.moved;
    return sum;
  }
  std::string waits_for(uint64_t token) const {
    const Part* first = nullptr;
    int64_t more = 0;
    for (const Part& part : running) {
      if (!part.transfer || part.transfer->token != token) continue;
      first == nullptr ? void(first = &part) : void(++more);
    }
    if (first != nullptr)
      return to_string(Bytes{first->asked - first->moved}) + " at offset " +
             std::to_string(first->offset + first->moved) + " of " + first->file->string() +
             (more > 0 ? ", and " + std::to_string(more) + " more" : "");
    return without_space.empty() ? "queued behind other requests" : "until there is room on a full drive";
  }

  void end_without_space(const Error& error) {
    retry_at.reset();
    for (Part& part : without_space) end_part(part, error);
    without_space.clear();
  }

  Result<void> check(const Part& part) const {
    if (part.direction == Direction::write || part.piece == nullptr) return {};
    if (XXH3_64bits(part.memory, static_cast<size_t>(part.bytes)) == part.piece->checksum) return {};
    return Error{ErrorCode::corrupt,
                 "checksum mismatch reading " + std::to_string(part.bytes) + " bytes at offset " +
                     std::to_string(part.offset) + " of " + part.file->string(),
                 "the drive or memory returned other bytes than were written: resume from the last checkpoint, on "
                 "another drive"};
  }

  void end_part(Part& part, Result<void> result) {
    Transfer& transfer = *part.transfer;
    if (!result.ok() && transfer.result.ok()) transfer.result = std::move(result);
    if (--transfer.parts_left == 0) finished.push_back({transfer.token, std::move(transfer.result)});
  }

  void deliver() {
    if (finished.empty()) return;
    {
      const std::lock_guard lock(mutex);
      for (Completion& completion : finished) completions.push_back(std::move(completion));
    }
    finished.clear();
    const uint64_t one = 1;
    ssize_t written;
    do written = ::write(completion_fd, &one, sizeof one);
    while (written < 0 && errno == EINTR);
  }

  const SwapOptions options;
  BackendKind kind = BackendKind::thread;
  int depth = 0;
  std::vector<std::string> warnings;
  ExtentTable extents;
  std::deque<Source> sources;
  std::unique_ptr<IoBackend> backend;
  int completion_fd = -1;

  // Shared with the io thread under `mutex`.
  std::mutex mutex;
  std::vector<Part> inbox;
  std::vector<Completion> completions;
  std::vector<std::function<void()>> errands;
  std::condition_variable arrived;
  bool stopping = false;
  bool impatient = false;  // writes do not wait for room

  // The io thread's.
  SpaceWait space_wait;
  std::deque<Part> without_space;  // refused by a full drive; no write is submitted meanwhile
  std::optional<SpaceWait::Clock::time_point> retry_at;
  std::array<std::deque<Part>, 2> waiting;
  std::array<int, 2> active{};
  std::vector<Part> running;
  std::vector<size_t> free_slots;
  std::vector<Completion> finished;
  std::atomic<int64_t> read_bytes{0}, write_bytes{0}, requests{0}, resubmitted{0};
  std::thread io_thread;
};

SwapEngine::SwapEngine(const SwapOptions& options)
    : SwapEngine(options, [](std::unique_ptr<IoBackend> backend) { return backend; }) {}
SwapEngine::SwapEngine(const SwapOptions& options, const WrapBackend& wrap)
    : impl_(std::make_unique<Impl>(options, wrap)) {}
SwapEngine::~SwapEngine() = default;

const std::vector<std::string>& SwapEngine::warnings() const { return impl_->warnings; }
BackendKind SwapEngine::backend() const { return impl_->kind; }

ExtentId SwapEngine::create_extent(Bytes bytes, std::string_view tag) { return impl_->extents.create(bytes, tag); }
ExtentId SwapEngine::create_extent_at(Bytes bytes, std::span<const Piece> pieces) {
  return impl_->extents.create_at(bytes, pieces);
}
FrozenId SwapEngine::adopt(std::vector<Piece> pieces) { return impl_->extents.freeze(std::move(pieces)); }
FrozenId SwapEngine::freeze(std::span<const ExtentId> extents) { return impl_->extents.freeze(extents); }
void SwapEngine::release(FrozenId frozen) { impl_->extents.release(frozen); }
void SwapEngine::reserve(Bytes spare, std::string_view tag) { impl_->extents.reserve(spare, tag); }
Result<void> SwapEngine::sync() { return impl_->extents.sync(); }
bool SwapEngine::is_written(ExtentId extent) const { return impl_->extents.is_written(extent); }
std::span<const Piece> SwapEngine::pieces(ExtentId extent) const { return impl_->extents.pieces(extent); }
Bytes SwapEngine::held() const { return impl_->extents.held(); }
std::filesystem::path SwapEngine::file(int path) const { return impl_->extents.file(path).path(); }
void SwapEngine::keep_files(bool keeps) { impl_->extents.keep_files(keeps); }

SourceId SwapEngine::open_source(const std::filesystem::path& file) {
  Source source{file, open_source_file(file), 0};
  struct stat about {};
  if (fstat(source.fd, &about) != 0) {
    close(source.fd);
    throw SetupError("cannot stat " + file.string() + ": " + std::strerror(errno), "check the path");
  }
  source.bytes = about.st_size;
  impl_->sources.push_back(std::move(source));
  return static_cast<SourceId>(impl_->sources.size() - 1);
}

void SwapEngine::register_memory(std::span<std::byte> memory) {
  const Result<void> registered =
      impl_->ask_io_thread([this, memory] { return impl_->backend->register_memory(memory); }).get();
  if (!registered.ok())
    impl_->warnings.push_back(to_string(Bytes{static_cast<int64_t>(memory.size())}) +
                              " of host memory not registered with io_uring (" + registered.error().message +
                              "): a little more CPU per transfer; raise `ulimit -l`");
}

void SwapEngine::read(ExtentId extent, std::span<std::byte> memory, uint64_t token) {
  impl_->transfer(Direction::read, extent, memory, token);
}
void SwapEngine::write(ExtentId extent, std::span<const std::byte> memory, uint64_t token) {
  // The kernel only reads it.
  impl_->transfer(Direction::write, extent, {const_cast<std::byte*>(memory.data()), memory.size()}, token);
}
void SwapEngine::read_source(SourceId source, int64_t offset, int64_t bytes, std::span<std::byte> memory,
                             uint64_t token) {
  impl_->read_source(source, offset, bytes, memory, token);
}

void SwapEngine::stop_waiting_for_space() { impl_->stop_waiting_for_space(); }

std::string SwapEngine::waits_for(uint64_t token) {
  std::future<std::string> answer = impl_->ask_io_thread([this, token] { return impl_->waits_for(token); });
  // Handing a request to a drive that hangs may block the io thread itself.
  if (answer.wait_for(std::chrono::seconds(1)) == std::future_status::ready) return answer.get();
  return "which the kernel has not even taken";
}

std::vector<Completion> SwapEngine::poll() { return impl_->poll(); }
std::vector<Completion> SwapEngine::wait(std::chrono::microseconds timeout) {
  pollfd fd{impl_->completion_fd, POLLIN, 0};
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
  int ready;
  do ready = ::poll(&fd, 1, static_cast<int>(milliseconds));
  while (ready < 0 && errno == EINTR);
  return poll();
}
int SwapEngine::event_fd() const { return impl_->completion_fd; }

SwapCounters SwapEngine::counters() const {
  return {impl_->read_bytes, impl_->write_bytes, impl_->requests, impl_->resubmitted};
}

}  // namespace sluice::swap
