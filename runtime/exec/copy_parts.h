// Host memory that was pinned piece by piece, and copies from and to it cut at the borders: CUDA refuses a copy whose
// range is pinned in part, or by two registrations.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace sluice::exec {

class CopyParts {
 public:
  void add(std::span<std::byte> piece) { pieces_.push_back(piece); }
  std::span<const std::span<std::byte>> pieces() const { return pieces_; }

  // body(offset, count) for parts of the range, in order, that lie in one piece each, or in none.
  template <class Body>
  void for_parts(const std::byte* at, size_t bytes, const Body& body) const {
    for (size_t done = 0, count = 0; done < bytes; done += count) {
      count = until_border(at + done, bytes - done);
      body(done, count);
    }
  }

 private:
  size_t until_border(const std::byte* at, size_t bytes) const {
    const auto stop_before = [&](const std::byte* border) {
      if (border > at && border < at + bytes) bytes = static_cast<size_t>(border - at);
    };
    for (const std::span<std::byte> piece : pieces_) {
      stop_before(piece.data());
      stop_before(piece.data() + piece.size());
    }
    return bytes;
  }

  std::vector<std::span<std::byte>> pieces_;
};

}  // namespace sluice::exec
