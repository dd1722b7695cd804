// A list whose first few elements lie in it: one that stays short takes no memory of its own. For what is made by the
// million; otherwise as std::vector.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <type_traits>
#include <utility>

namespace sluice {

template <class T, size_t kInside>
class ShortList {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  using value_type = T;
  using iterator = T*;
  using const_iterator = const T*;

  ShortList() = default;
  ShortList(std::initializer_list<T> values) : ShortList(values.begin(), values.end()) {}
  template <std::input_iterator From>
  ShortList(From first, From last) {
    append(first, last);
  }
  ~ShortList() = default;
  ShortList(const ShortList& other) : ShortList(other.begin(), other.end()) {}
  ShortList(ShortList&& other) noexcept { take(other); }
  ShortList& operator=(const ShortList& other) {
    if (this != &other) assign(other.begin(), other.end());
    return *this;
  }
  ShortList& operator=(ShortList&& other) noexcept {
    if (this != &other) take(other);
    return *this;
  }

  T* data() { return outside_ ? outside_.get() : inside_.data(); }
  const T* data() const { return outside_ ? outside_.get() : inside_.data(); }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  T& operator[](size_t i) { return data()[i]; }
  const T& operator[](size_t i) const { return data()[i]; }
  const T& front() const { return data()[0]; }

  void clear() { size_ = 0; }
  void push_back(const T& value) {
    const T kept = value;  // it may be one of ours
    make_room(size_ + 1);
    data()[size_++] = kept;
  }
  // Of elements that are not this list's.
  template <std::input_iterator From>
  void append(From first, From last) {
    make_room(size_ + static_cast<size_t>(std::distance(first, last)));
    size_ = static_cast<size_t>(std::copy(first, last, end()) - data());
  }
  template <std::input_iterator From>
  void assign(From first, From last) {
    clear();
    append(first, last);
  }
  void assign(size_t count, const T& value) {
    clear();
    make_room(count);
    std::fill_n(data(), count, value);
    size_ = count;
  }
  T* erase(T* first, T* last) {
    size_ = static_cast<size_t>(std::copy(last, end(), first) - data());
    return first;
  }
  T* erase(T* at) { return erase(at, at + 1); }

  template <class Predicate>
  friend void erase_if(ShortList& list, const Predicate& predicate) {
    list.erase(std::remove_if(list.begin(), list.end(), predicate), list.end());
  }
  friend bool operator==(const ShortList& a, const ShortList& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  void make_room(size_t count) {
    if (count <= capacity_) return;
    const size_t more = std::max(count, 2 * capacity_);
    auto larger = std::make_unique<T[]>(more);
    std::copy(begin(), end(), larger.get());
    outside_ = std::move(larger);
    capacity_ = more;
  }
  void take(ShortList& other) {
    inside_ = other.inside_;
    outside_ = std::move(other.outside_);
    size_ = std::exchange(other.size_, 0);
    capacity_ = std::exchange(other.capacity_, kInside);
  }

  std::unique_ptr<T[]> outside_;
  size_t size_ = 0, capacity_ = kInside;
  std::array<T, kInside> inside_{};
};

}  // namespace sluice
